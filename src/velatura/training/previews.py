"""Images painted while training: from fixed seeds, at fixed steps, and once before the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from velatura.events import Events, PreviewSaved
from velatura.interfaces import Conditioning, Family, ModelInfo, Parts
from velatura.plural import counted
from velatura.recipe.sampling.previews import Previews
from velatura.sampling.painter import encode_request, filled, lost_negative, paint, to_images
from velatura.sampling.png import save_png
from velatura.sampling.request import Request, parse_line


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
def paint_previews(
    planned: Sequence[PlannedPreview],
    family: Family,
    parts: Parts,
    *,
    folder: Path,
    step: int,
    device: torch.device,
    dtype: torch.dtype,
    events: Events,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Path]:
    """Paint all, one PNG each; none is begun any more once someone asked to stop."""
    paths: list[Path] = []
    for number, preview in enumerate(planned):
        if stopped():
            events.notice(f"{counted(len(planned) - number, 'preview')} of step {step} left out")
            break
        conditioning = preview.conditioning or encode_request(family, parts, preview.request)
        latents = paint(family, parts, preview.request, conditioning.to(device, dtype), device=device)
        path = folder / f"{number:02d}.png"
        save_png(to_images(family, parts, latents)[0], path, preview.request, {"step": str(step)})
        events(PreviewSaved(step=step, prompt=preview.request.prompt, path=str(path)))
        paths.append(path)
    return paths
