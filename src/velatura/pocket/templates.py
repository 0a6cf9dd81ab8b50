"""Silhouettes of every shape and size over the table, made when first asked for, and how well they cover a picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from velatura.pocket.camera import Array, on_table, project_point
from velatura.pocket.detection import WORKING
from velatura.pocket.renderer import Mask
from velatura.pocket.scenes import CONCEPTS, SHAPES, SIZES, Solid
from velatura.pocket.tracing import trace

STEP: Final = 0.3
"""Distance between the places that silhouettes are made for, metres."""
REACH_X: Final = 1.5
NEAR_Z, FAR_Z = -1.65, 1.2
SHIFT: Final = 4
"""How far a silhouette is moved about to find its best place, pixels; farther only in steps of two."""
CANDIDATES: Final = tuple((shape, size) for shape in SHAPES + CONCEPTS for size in SIZES)


@dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """A cropped silhouette; `above` and `left` are rows and columns from its corner to where it stands."""

    mask: Mask
    above: float
    left: float


@dataclass(frozen=True, kw_only=True)
class Place:
    """A shape and size at a place (x, z in metres), and how well its silhouette covers the picture, 0..1."""

    shape: str
    size: str
    x: float
    z: float
    cover: float


@dataclass(frozen=True, kw_only=True)
class Box:
    """Rows and columns that a piece of a picture takes, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @staticmethod
    def around(mask: Mask) -> Box:
        """The smallest box that holds a mask, which must not be empty."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        return Box(
            top=int(rows[0]), bottom=int(rows[-1]) + 1, left=int(columns[0]), right=int(columns[-1]) + 1
        )


def best_place(shape: str, size: str, box: Box, sure: Array, maybe: Array, reach: int) -> Place | None:
    """The place for a shape that best covers the piece of a picture in `box`; None when that is off the table.

    `sure` [96, 96] says how surely a pixel is no table, `maybe` also counts what could be shadow, both in 0..1.
    The silhouette is laid on the box's foot and on its top, then moved about by up to `reach` pixels.
    """
    found: Place | None = None
    for at_top in (False, True):
        place = _align(shape, size, box, at_top, sure, maybe, reach)
        if place is not None and (found is None or place.cover > found.cover):
            found = place
    return found


def _align(
    shape: str, size: str, box: Box, at_top: bool, sure: Array, maybe: Array, reach: int
) -> Place | None:
    x, z = on_table((box.left + box.right) / 2, box.bottom - 3, WORKING)
    for _ in range(2):
        template = _nearest(shape, size, x, z)
        height, width = template.mask.shape
        row = box.top if at_top else box.bottom - height
        column = round((box.left + box.right - width) / 2)
        x, z = on_table(column + template.left, row + template.above, WORKING)
    cover, down, across = _slide(template.mask, row, column, sure, maybe, reach)
    x, z = on_table(column + template.left + across, row + template.above + down, WORKING)
    if not (abs(x) < REACH_X and NEAR_Z - STEP < z < FAR_Z + STEP):
        return None
    return Place(shape=shape, size=size, x=x, z=z, cover=cover)


def _slide(
    mask: Mask, row: int, column: int, sure: Array, maybe: Array, reach: int
) -> tuple[float, int, int]:
    """The best cover over shifts of up to `reach` pixels, and that shift (rows, columns)."""
    height, width = mask.shape
    step = 1 if reach <= SHIFT else 2
    pad = 80
    rows, columns = pad + row - reach, pad + column - reach
    area = np.s_[rows : rows + height + 2 * reach, columns : columns + width + 2 * reach]
    sure_area, maybe_area = np.pad(sure, pad)[area], np.pad(maybe, pad)[area]
    weights = mask.astype(np.float32)
    missed = sure_area.sum() - _correlate(sure_area, weights, step)
    cover = _correlate(maybe_area, weights, step) / (weights.sum() + missed)
    best = int(cover.argmax())
    down, across = divmod(best, cover.shape[1])
    return float(cover.ravel()[best]), step * down - reach, step * across - reach


def _correlate(area: Array, weights: Array, step: int) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(area, weights.shape)[::step, ::step]
    return np.tensordot(windows, weights, axes=2)


def _nearest(shape: str, size: str, x: float, z: float) -> Template:
    x, z = min(max(x, -REACH_X), REACH_X), min(max(z, NEAR_Z), FAR_Z)
    return _template(shape, size, round(x / STEP), round(z / STEP))


@cache
def _template(shape: str, size: str, x_step: int, z_step: int) -> Template:
    """The silhouette at a place of the grid; outside of the frame it is traced in the middle of it."""
    x, z = x_step * STEP, z_step * STEP
    solid = Solid(shape=shape, colour="red", size=size, material="matte", x=x, z=z)
    hits = trace((solid,), 2 * WORKING, 1)
    whole = np.zeros(4 * WORKING * WORKING, dtype=bool)
    whole[hits.sample] = True
    pixels = whole.reshape(WORKING, 2, WORKING, 2).mean(axis=(1, 3)) >= 0.5
    if not pixels.any():
        return _template(shape, size, 0, z_step) if x_step else _template(shape, size, 0, 0)
    box = Box.around(pixels)
    column, row = project_point(x, 0.0, z)
    return Template(
        mask=pixels[box.top : box.bottom, box.left : box.right],
        above=row * WORKING - box.top,
        left=column * WORKING - box.left,
    )
