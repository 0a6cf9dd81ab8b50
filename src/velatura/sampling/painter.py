"""Painting with loaded parts: conditioning and noise in, images out. Previews and the Pipeline both use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from velatura.adapters.lora import forgetting
from velatura.draws import Draw
from velatura.errors import NumericError, RecipeError
from velatura.interfaces import Conditioning, Family, ModelInfo, Parts, Prompt
from velatura.sampling.request import Request, check
from velatura.sampling.samplers import euler, guided, part_of

TOGETHER = 64  # times for which conditioning is steered at once: of FLUX.1 it takes 2 MB for each


def filled(request: Request, info: ModelInfo) -> Request:
    """The request with the model's defaults where it was silent. Raises RecipeError for what cannot be painted."""
    defaults = info.defaults
    if request.guidance not in (None, defaults.guidance) and not info.guided:
        raise RecipeError(
            f"guidance = {request.guidance:g} was received, and this model ({info.family} {info.variant}) has no "
            "distilled guidance: it would have no effect. Leave it out; classifier-free guidance is cfg."
        )
    done = replace(
        request,
        steps=defaults.steps if request.steps is None else request.steps,
        width=defaults.size if request.width is None else request.width,
        height=defaults.size if request.height is None else request.height,
        guidance=defaults.guidance if request.guidance is None else request.guidance,
        cfg=defaults.cfg if request.cfg is None else request.cfg,
    )
    check(done, info.size_step)
    return done


def lost_negative(request: Request) -> str:
    """Why the negative prompt of a filled request has no effect; empty where it has one, or is empty."""
    if not request.negative or request.cfg != 1.0:
        return ""
    return "the negative prompt has no effect at cfg = 1: set cfg above 1, or leave it out"


def request_texts(request: Request) -> list[str]:
    """The prompt, and after it the negative prompt when cfg is not 1."""
    return [request.prompt] if request.cfg == 1.0 else [request.prompt, request.negative]


@torch.no_grad()
def encode_request(family: Family, parts: Parts, request: Request) -> Conditioning:
    """Conditioning of `request_texts`: one or two items."""
    with forgetting(parts.modules("text_encoders")):
        return family.encode(parts, [Prompt(text=text) for text in request_texts(request)])


@torch.no_grad()
def paint(
    family: Family,
    parts: Parts,
    request: Request,
    conditioning: Conditioning,
    *,
    device: torch.device,
    start: Tensor | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Latents `[batch, C, h, w]` float32 of a filled request.

    `conditioning` as from `encode_request`; `start`: latents of the input image `[1 or batch, C, h, w]`.
    The noise of image i of the series depends on the seed and i alone.
    """
    info = parts.info
    assert request.steps
    assert request.width
    assert request.height
    assert request.cfg is not None
    shape = (info.latent_channels, request.height // info.latent_scale, request.width // info.latent_scale)
    slots = range(request.first, request.first + request.batch)
    latents = Draw.of(request.seed, slots=slots).normal("sample", shape).to(device)
    times = family.schedule.times(request.steps, family.tokens(latents))
    if start is not None:
        times = part_of(times, request.strength)
        latents = (
            family.schedule.alpha(times[0]) * start.to(device) + family.schedule.sigma(times[0]) * latents
        )
    guidance, cfg, batch = float(request.guidance or 0.0), request.cfg, request.batch
    rows = [0] * batch if cfg == 1.0 else [0] * batch + [1] * batch
    known = _along(family, parts, conditioning, times[:-1], guidance)

    def predict(noisy: Tensor, t: float) -> Tensor:
        steered = next(known).select(rows)
        if cfg == 1.0:
            return family.predict(parts, noisy, _times(t, noisy), steered, guidance=guidance)
        both = torch.cat((noisy, noisy))
        with_prompt, without = family.predict(parts, both, _times(t, both), steered, guidance=guidance).chunk(
            2
        )
        return guided(with_prompt, without, cfg)

    with forgetting(parts.modules("denoiser")):
        return euler(predict, latents, times, family.schedule, info.prediction, progress)


@torch.no_grad()
def to_images(family: Family, parts: Parts, latents: Tensor) -> list[Image.Image]:
    """Decode latents, one at a time to bound memory, into 8-bit RGB images. Raises NumericError for NaN."""
    return [as_image(_decoded(family, parts, row)) for row in latents]


def _decoded(family: Family, parts: Parts, latents: Tensor) -> Tensor:
    """`[C, h, w]` -> `[3, H, W]`; nothing that is NaN becomes a black picture without a word."""
    pixels = family.decode_latents(parts, latents[None])[0]
    if pixels.isfinite().all():
        return pixels
    assert parts.autoencoder is not None
    dtype = next(parts.autoencoder.parameters()).dtype
    who = "autoencoder" if latents.isfinite().all() else "denoiser"
    raise no_picture(who, dtype, "get its file again")


def no_picture(who: str, dtype: torch.dtype, do: str) -> NumericError:
    """The error for what a part gave that is not finite; `do`: what helps where a weight is not."""
    why = f"a weight of the {who}, or of a LoRA on it, is NaN: {do}"
    if dtype == torch.float16:
        why = f"fp16 overflows in many models: use precision bf16 or fp32. If that does not help, {why}"
    return NumericError(f"the {who} gave NaN or infinity in {dtype}, which makes no picture. Maybe {why}.")


def as_image(pixels: Tensor) -> Image.Image:
    """`[3, H, W]` in [-1, 1] -> an 8-bit RGB image."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(scaled.permute(1, 2, 0).cpu().numpy())


def as_tensor(image: Image.Image) -> Tensor:
    """An image -> `[1, 3, H, W]` in [-1, 1]."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _along(
    family: Family, parts: Parts, conditioning: Conditioning, times: Tensor, guidance: float
) -> Iterator[Conditioning]:
    """The conditioning at one time after the other, computed for `TOGETHER` times at once."""
    for some in times.split(TOGETHER):
        yield from family.along(parts, conditioning, some, guidance=guidance)


def _times(t: float, latents: Tensor) -> Tensor:
    return torch.full((latents.shape[0],), t, device=latents.device)
