"""One image as the denoiser will see it: does it decode to its last byte, is it sharp, what does it look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from velatura.data.checking.likeness import Likeness, likeness_of
from velatura.data.decoded import load_companions, load_pixels
from velatura.data.views import View
from velatura.errors import DataError

BLURRY = 0.05
"""Detail below this: a picture that was enlarged to twice its size, or is out of focus. Sharp ones have 0.15 to 1."""
_WINDOW = 512  # pixels, edge of the part in the middle that is judged
_LEAST = 0.02  # windowed power in squared levels below which there is nothing to judge by


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What the pixels of one view say."""

    damage: str | None = None  # why it cannot be decoded; then nothing else is known
    likeness: Likeness | None = None
    detail: float | None = None  # see `detail_of`; None: nothing to judge by


def examine(view: View) -> Examined:
    """Decode an image and all its companions completely."""
    try:
        pixels = load_pixels(view)
        load_companions(view)
    except DataError as error:
        return Examined(damage=str(error))
    grey = Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert("L")
    return Examined(likeness=likeness_of(grey), detail=detail_of(grey))


def detail_of(grey: Image.Image) -> float | None:
    """How much there is in the finest octave of a picture (mode L), as a share of what is in each of the next two.

    Natural pictures have about as much power in each octave; one that was enlarged to twice its size has next to
    nothing in the finest: there is nothing above 1/4 cycle per pixel.
    """
    edge = min(*grey.size, _WINDOW)
    if edge < 32:
        return None
    left, top = (grey.width - edge) // 2, (grey.height - edge) // 2
    pixels = np.asarray(grey.crop((left, top, left + edge, top + edge)), dtype=np.float32)
    window = np.hanning(edge).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft2((pixels - pixels.mean()) * window * window[:, None])))
    frequency = np.maximum(np.abs(np.fft.fftfreq(edge))[:, None], np.fft.rfftfreq(edge)[None])
    finest = power[frequency >= 0.25].sum()
    coarser = power[(frequency >= 1 / 16) & (frequency < 0.25)].sum() / 2
    return round(float(finest / coarser), 4) if coarser / edge**4 >= _LEAST else None
