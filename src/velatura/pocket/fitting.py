"""Laying solids over a piece of a picture: silhouettes first, then light, colours and materials.

Nothing is learned: the candidate that, drawn, looks most like the picture is what stands there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np

from velatura.pocket import lights
from velatura.pocket.camera import Array, on_table, project_point
from velatura.pocket.detection import (
    UNLIKE,
    WORKING,
    at_working_size,
    find_light,
    grow,
    shrink,
    tables,
    unlikeness,
)
from velatura.pocket.renderer import Image, Mask, Shading, shade, surface_radiance
from velatura.pocket.scenes import COLOURS, MATERIALS, Solid
from velatura.pocket.shapes import parts_of
from velatura.pocket.templates import CANDIDATES, SHIFT, Box, Place, best_place
from velatura.pocket.tracing import Hits, trace

CAP: Final = 70.0
"""A pixel's error (0..255) counts no more than this: one highlight in a wrong place is not the end."""
BORDER: Final = 0.5
"""Weight of pixels at a silhouette's rim, where blur mixes in the table."""

GOOD_ENOUGH: Final = 0.03
"""A fit whose error, above the grain, is smaller than this is the right one."""
WORTH_MOVING: Final = 0.25
"""A fit whose error is larger by this than that of the best silhouette is not moved about."""
NEAR_STEPS: Final = (1.0, 0.5)
FAR_STEPS: Final = (3.0, 2.0, 1.0, 0.5)
"""By how many pixels fits are moved about, where a piece is clear and where it is not."""
GRAIN: Final = 0.7
"""Share of the noise that remains in errors, which are taken after a little blur."""

Paint = tuple[str, str]
PAINTS: Final[tuple[Paint, ...]] = tuple((material, colour) for material in MATERIALS for colour in COLOURS)


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A picture prepared for reading: `pixels` [3, 96 * 96] in 0..255; `sure` and `maybe` as in `best_place`.

    `noise`: the usual error of a pixel of the table, as a share of CAP.
    """

    pixels: Array
    light: str
    solid: Mask
    sure: Array
    maybe: Array
    noise: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A solid laid over a piece: `error` 0..1 over the pixels of either, and its silhouette.

    `lead`: how much larger the error of the best other shape is.
    """

    solid: Solid
    error: float
    mask: Mask
    lead: float = 0.0


def prepare(image: Image) -> View:
    """Find the light, and what is not table."""
    pixels = at_working_size(image)
    light = find_light(pixels)
    unlike = unlikeness(pixels, light)
    dim = np.abs(pixels - tables(light)[0]).max(axis=2)
    solid = unlike > UNLIKE
    stripes = np.zeros_like(solid)
    for reach in (1, 2, 3):
        stripes[reach:-reach] |= solid[2 * reach :] & solid[: -2 * reach] & (dim[reach:-reach] > UNLIKE)
    sure = np.clip(unlike / 40, 0, 1)
    maybe = np.maximum(sure, 0.5 * np.clip(dim / 40, 0, 1))
    return View(
        pixels=pixels.reshape(-1, 3).T.copy(),
        light=light,
        solid=solid | stripes,
        sure=sure,
        maybe=maybe,
        noise=float(np.median(unlike)) / CAP,
    )


def fit_piece(view: View, piece: Mask, reach: int, around: int, kept: int) -> Fit | None:
    """The best of `kept` silhouettes, moved by up to `reach` pixels, for what is `around` pixels of a piece."""
    box = Box.around(piece)
    near = grow(piece, around)
    sure, maybe = view.sure * near, view.maybe * near
    places = [best_place(shape, size, box, sure, maybe, reach) for shape, size in CANDIDATES]
    ranked = sorted((place for place in places if place is not None), key=lambda place: -place.cover)
    if not ranked:
        return None
    steps = NEAR_STEPS if reach <= SHIFT else FAR_STEPS
    first = _refined(view, piece, _lit(view, piece, ranked[0]), steps)
    if first.error < GOOD_ENOUGH + GRAIN * view.noise:
        return replace(first, lead=1.0)
    fits = [_lit(view, piece, place) for place in ranked[1:kept] if place.cover > ranked[0].cover - 0.25]
    fits.sort(key=lambda fit: fit.error)
    for place, fit in enumerate(fits[: max(2, kept // 3)]):
        if fit.error < first.error + WORTH_MOVING:
            fits[place] = _refined(view, piece, fit, steps)
    fits = sorted([first, *fits], key=lambda fit: fit.error)
    others = [fit.error for fit in fits if fit.solid.shape != fits[0].solid.shape]
    return replace(fits[0], lead=min(others, default=1.0) - fits[0].error)


def in_company(view: View, fit: Fit, others: tuple[Solid, ...]) -> Fit:
    """A fit in the paint that it has when the other solids cast their shadows on it."""
    if not others:
        return fit
    shaded = _lit(view, np.zeros_like(fit.mask), _place_of(fit.solid), others)
    return shaded if shaded.error < fit.error else fit


def _refined(view: View, piece: Mask, fit: Fit, steps: tuple[float, ...]) -> Fit:
    """Move a fit by so many pixels, each step as long as it gets better; then choose its paint again."""
    if fit.error < GOOD_ENOUGH + GRAIN * view.noise:
        return fit
    best = fit
    paint = ((fit.solid.material, fit.solid.colour),)
    for step in steps:
        column, row = (WORKING * share for share in project_point(best.solid.x, 0.0, best.solid.z))
        for across, down in ((step, 0), (-step, 0), (0, step), (0, -step)):
            x, z = on_table(column + across, row + down, WORKING)
            place = Place(shape=fit.solid.shape, size=fit.solid.size, x=x, z=z, cover=0.0)
            moved = _lit(view, piece, place, paints=paint)
            if moved.error < best.error:
                best = moved
    return best if best is fit else _lit(view, piece, _place_of(best.solid))


def _place_of(solid: Solid) -> Place:
    return Place(shape=solid.shape, size=solid.size, x=solid.x, z=solid.z, cover=0.0)


def _lit(
    view: View, piece: Mask, place: Place, others: tuple[Solid, ...] = (), paints: tuple[Paint, ...] = PAINTS
) -> Fit:
    """Light a candidate at its place, in several paints, and keep the paint that is most like the picture."""
    solid = Solid(
        shape=place.shape,
        colour="red",
        size=place.size,
        material="matte",
        x=round(place.x, 4),
        z=round(place.z, 4),
    )
    hits = trace((solid,), WORKING, 1)
    mask = np.zeros((WORKING, WORKING), dtype=bool)
    mask.reshape(-1)[hits.sample] = True
    if not hits.sample.size:
        return Fit(solid=solid, error=1.0, mask=mask)
    shadowing = tuple(part for other in others for part in parts_of(other))
    shading = shade(replace(hits, parts=hits.parts + shadowing), view.light, WORKING)
    off = _difference(view, hits, mask, _painted(hits, shading, paints))
    weights = np.where(shrink(mask)[mask], 1.0, BORDER)
    missed = (piece & ~grow(mask)).sum()
    errors = (np.minimum(off / CAP, 1) @ weights + missed) / (weights.sum() + missed)
    best = int(errors.argmin())
    material, colour = paints[best]
    return Fit(solid=replace(solid, material=material, colour=colour), error=float(errors[best]), mask=mask)


def _painted(hits: Hits, shading: Shading, paints: tuple[Paint, ...]) -> Array:
    """Radiance [P, 3, m] of the samples in P paints."""
    drawn = np.empty((len(paints), *shading.diffuse.shape), dtype=np.float32)
    for index, (material, colour) in enumerate(paints):
        drawn[index] = surface_radiance(colour, material, shading.diffuse, shading.gloss, shading.band)
    for index, part in enumerate(hits.parts):
        if part.paint is not None:
            mine = hits.part == index
            drawn[:, :, mine] = shading.diffuse[:, mine] * lights.paint(part.paint)
    return drawn


def _difference(view: View, hits: Hits, mask: Mask, drawn: Array) -> Array:
    """Mean difference over channels [P, m] in 0..255, after a little blur of both."""
    box = Box.around(grow(mask))
    crop = np.s_[..., box.top : box.bottom, box.left : box.right]
    inside = mask[crop]
    difference = np.zeros((len(drawn), 3, *inside.shape), dtype=np.float32)
    difference[:, :, inside] = _bytes(drawn) - view.pixels[:, hits.sample]
    middle = difference[..., 1:-1] * 2 + difference[..., :-2] + difference[..., 2:]
    difference[..., 1:-1] = middle / 4
    middle = difference[..., 1:-1, :] * 2 + difference[..., :-2, :] + difference[..., 2:, :]
    difference[..., 1:-1, :] = middle / 4
    off: Array = np.abs(difference).mean(axis=1)[:, inside]
    return off


def _bytes(radiance: Array) -> Array:
    """Linear light -> sRGB in 0..255, by table."""
    steps = _srgb_table()
    picked: Array = steps[np.clip(radiance * (len(steps) - 1), 0, len(steps) - 1).astype(np.int32)]
    return picked


@lru_cache(maxsize=1)
def _srgb_table() -> Array:
    return 255 * lights.srgb(np.linspace(0, 1, 8192, dtype=np.float32))
