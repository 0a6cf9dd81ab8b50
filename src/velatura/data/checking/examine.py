"""One image as the denoiser will see it: does it decode to its last byte, is it sharp, what does it look like."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
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
    grey = Image.merge("RGB", [Image.fromarray(band.numpy()) for band in pixels]).convert("L")
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
    pixels = np.array(grey.crop((left, top, left + edge, top + edge)), dtype=np.float32)
    window = np.hanning(edge).astype(np.float32)
    pixels -= pixels.mean()
    pixels *= window
    pixels *= window[:, None]
    power = _power(pixels)
    low, middle = _below(power, 1 / 16), _below(power, 1 / 4)
    finest = float(power.sum(dtype=np.float64)) - middle
    coarser = (middle - low) / 2
    return round(finest / coarser, 4) if coarser / edge**4 >= _LEAST else None


def _power(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared amplitudes, `[N, N // 2 + 1]`."""
    waves = np.fft.rfft(pixels)
    values = np.fft.fft(waves, axis=0, out=waves).view(np.float32)
    values *= values
    return values[:, ::2] + values[:, 1::2]


def _below(power: NDArray[np.float32], frequency: float) -> float:
    """The sum of what lies below a frequency, in cycles per pixel, along both axes."""
    end = math.ceil(frequency * len(power))
    return float(power[:end, :end].sum(dtype=np.float64) + power[1 - end :, :end].sum(dtype=np.float64))
