"""Where a picture differs from the empty table: the light, and a map of how unlike the table each pixel is."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures

from velatura.errors import DataError
from velatura.pocket import lights
from velatura.pocket.camera import Array, project_point
from velatura.pocket.renderer import SAMPLES, Image, Mask
from velatura.pocket.scenes import LIGHTS
from velatura.pocket.tracing import WALL, empty_table

WORKING: Final = 96
"""Pictures are read at this width, pixels."""
UNLIKE: Final = 22.0
"""A pixel that differs this much (0..255) from the table in any light and shadow belongs to something else."""

_HORIZON: Final = round(project_point(0.0, 0.0, WALL)[1] * WORKING)
SEAM: Final = slice(_HORIZON - 2, _HORIZON + 2)
"""Rows where a blurred picture mixes the table with the backdrop."""
_SEAM_SHARES: Final = (0.2, 0.4, 0.6, 0.8)
_SKY_SHARES: Final = (1.0, 0.7, 0.45)
_SUN_SHARES: Final = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)


def at_working_size(image: Image) -> Array:
    """A picture, uint8 [H, W, 3], as float32 [96, 96, 3] in 0..255; raises DataError for another shape or type."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1]:
        raise DataError(f"a pocket picture is square, uint8 [H, H, 3], not {image.dtype} {list(image.shape)}")
    if image.shape[0] != WORKING:
        resized = Pictures.fromarray(image).resize((WORKING, WORKING), Pictures.Resampling.LANCZOS)
        image = np.asarray(resized)
    return image.astype(np.float32)


def find_light(image: Array) -> str:
    """The light whose empty table is most like the picture."""
    return min(LIGHTS, key=lambda light: float(np.minimum(np.abs(image - tables(light)[0]), 60).mean()))


def unlikeness(image: Array, light: str) -> Array:
    """How far [96, 96] each pixel is from the table under any shadow, in 0..255 (largest channel)."""
    best = np.full(image.shape[:2], np.inf, dtype=np.float32)
    for table in tables(light):
        np.minimum(best, np.abs(image - table).max(axis=2), out=best)
        for share in _SEAM_SHARES:
            blend = share * table[SEAM.start - 1] + (1 - share) * table[SEAM.stop]
            np.minimum(best[SEAM], np.abs(image[SEAM] - blend).max(axis=2), out=best[SEAM])
    return best


@lru_cache(maxsize=3)
def tables(light: str) -> tuple[Array, ...]:
    """The empty table, [96, 96, 3] in 0..255, fully lit first, then under all depths of shadow."""
    table = empty_table(light, WORKING, SAMPLES)
    return tuple(
        _picture(table.ambient * sky + table.direct * sun) for sky in _SKY_SHARES for sun in _SUN_SHARES
    )


def _picture(radiance: Array) -> Array:
    pixels = radiance.reshape(3, WORKING, SAMPLES, WORKING, SAMPLES).mean(axis=(2, 4))
    return 255 * lights.srgb(pixels).transpose(1, 2, 0)


def components(mask: Mask, least: int) -> list[Mask]:
    """The connected pieces (8 neighbours) of a mask with at least so many pixels, largest first."""
    labels = _labels(mask)
    names, areas = np.unique(labels[mask], return_counts=True)
    order = np.argsort(-areas, kind="stable")
    return [labels == names[index] for index in order if areas[index] >= least]


def _labels(mask: Mask) -> NDArray[np.int64]:
    """A number for each piece, -1 outside: the largest pixel index spreads, along rows and columns at a time."""
    height, width = mask.shape
    labels = np.where(mask, np.arange(height * width).reshape(height, width), -1)
    while True:
        padded = np.pad(labels, 1, constant_values=-1)
        rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
        spread = np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
        spread = np.where(mask, spread, -1)
        spread[mask] = spread.ravel()[spread[mask]]
        if np.array_equal(spread, labels):
            return labels
        labels = spread


def grow(mask: Mask, steps: int = 1) -> Mask:
    """A mask and its 4 neighbours, `steps` times."""
    for _ in range(steps):
        wider = mask.copy()
        wider[1:] |= mask[:-1]
        wider[:-1] |= mask[1:]
        wider[:, 1:] |= mask[:, :-1]
        wider[:, :-1] |= mask[:, 1:]
        mask = wider
    return mask


def shrink(mask: Mask, steps: int = 1) -> Mask:
    """A mask without the pixels that have a 4 neighbour outside of it, `steps` times (the frame is inside)."""
    return ~grow(~mask, steps)
