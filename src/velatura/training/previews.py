"""Images painted while training: from fixed seeds, at fixed steps, and once before the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from velatura.errors import NumericError
from velatura.events import Events, PreviewSaved
from velatura.interfaces import Conditioning, Family, ModelInfo, Parts
from velatura.recipe.sampling.previews import Previews
from velatura.sampling.painter import encode_request, filled, lost_negative, paint, to_images
from velatura.sampling.png import save_png
from velatura.sampling.request import Request, parse_line
from velatura.sampling.samplers import SAMPLERS


@dataclass(frozen=True, kw_only=True)
class PlannedPreview:
    """One preview; its conditioning is kept, unless the text encoders themselves are trained."""

    request: Request
    conditioning: Conditioning | None


def plan_previews(section: Previews, info: ModelInfo, *, size: int) -> list[Request]:
    """The requests that the prompt lines state, filled and checked. Raises RecipeError."""
    size = section.size or max(info.size_step, size // info.size_step * info.size_step)
    defaults = Request(
        prompt="",
        negative=section.negative,
        steps=section.steps,
        width=size,
        height=size,
        guidance=section.guidance,
        cfg=section.cfg,
    )
    return [filled(parse_line(line, defaults), info) for line in section.prompts]


def lost_negatives(requests: Sequence[Request]) -> list[str]:
    """A line per reason why negative prompts of previews have no effect, with the numbers of the previews."""
    lost: dict[str, list[int]] = {}
    for number, request in enumerate(requests, start=1):
        if why := lost_negative(request):
            lost.setdefault(why, []).append(number)
    return [f"preview {', '.join(map(str, numbers))}: {why}" for why, numbers in lost.items()]


@torch.no_grad()
def paint_preview(
    preview: PlannedPreview,
    family: Family,
    parts: Parts,
    *,
    path: Path | None,
    step: int,
    device: torch.device,
    dtype: torch.dtype,
    events: Events,
    advance: Callable[[], None],
) -> None:
    """Paint one, into a PNG where there is a `path`; `advance` is called after each step.

    Raises StorageError, NumericError for what is no picture.
    """
    conditioning = preview.conditioning or encode_request(family, parts, preview.request)
    latents = paint(
        family,
        parts,
        preview.request,
        conditioning.to(device, dtype),
        device=device,
        progress=lambda done, total: advance(),
    )
    if path is None:
        return
    facts = {"step": str(step), "sampler": SAMPLERS[parts.info.prediction]}
    try:
        image = to_images(family, parts, latents)[0]
    except NumericError as error:
        raise NumericError(f"preview {path.stem} after step {step}: {error}") from None
    save_png(image, path, preview.request, facts)
    events(PreviewSaved(step=step, prompt=preview.request.prompt, path=str(path)))
