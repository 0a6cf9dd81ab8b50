"""Reading a scene off a picture: which solids stand where, and the light. See `fitting` for how one is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from velatura.pocket import lights
from velatura.pocket.camera import Array
from velatura.pocket.detection import WORKING, components, grow
from velatura.pocket.fitting import Fit, View, fit_piece, in_company, prepare
from velatura.pocket.renderer import Image, Mask
from velatura.pocket.scenes import COLOURS, Solid
from velatura.pocket.templates import CANDIDATES, SHIFT

LEAST_PIXELS: Final = 60
"""Smaller pieces are no solids."""
FRAGMENT: Final = 14
"""Pieces of this many pixels may be a light stripe whose neighbours pass for shadow."""
KEPT: Final = 5
"""How many silhouettes are lit and compared where the piece is clear."""
WELL_FITTED: Final = 0.08
"""A piece whose error, above the noise, is larger than this may be part of a solid, or two that touch."""
MOST_UNCLEAR: Final = 6
"""How many unclear pieces are looked into, largest first: what has more is no picture of a table."""
NO_TABLE: Final = 0.6
"""A picture that differs from the empty table in a larger share shows no table at all."""
OVERLAP: Final = 0.3
"""Two fits that share more than this of the smaller one are the same solid, seen twice."""
HARDLY_FITTED: Final = 0.30
"""A fragment that is fitted worse than this is nothing."""


@dataclass(frozen=True, kw_only=True)
class Detected:
    """A solid that was seen; `confidence` is 1 minus its mean clipped error, 0..1."""

    solid: Solid
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was seen in a picture; solids from left to right."""

    solids: tuple[Detected, ...]
    light: str


def read_scene(image: Image) -> Reading:
    """Find the solids and the light in a picture, uint8 [H, H, 3]; raises DataError for another shape or type."""
    view = prepare(image)
    if view.solid.mean() > NO_TABLE:
        return Reading(solids=(), light=view.light)
    left = view.solid.copy()
    fits, unclear = _clear_ones(view, left)
    for piece, first in unclear[:MOST_UNCLEAR]:
        rest = piece & left
        if rest.sum() >= FRAGMENT:
            fits.extend(_settle(left, _explain(view, rest, left, first)))
    fits = _once_more(view, _apart(fits))
    solids = [fit.solid for fit in fits]
    fits = [in_company(view, fit, tuple(solids[:k] + solids[k + 1 :])) for k, fit in enumerate(fits)]
    seen = [Detected(solid=fit.solid, confidence=1 - fit.error) for fit in fits]
    return Reading(solids=tuple(sorted(seen, key=lambda detected: detected.solid.x)), light=view.light)


def _clear_ones(view: View, left: Mask) -> tuple[list[Fit], list[tuple[Mask, Fit | None]]]:
    """Fits of the pieces that one solid explains well, taken out of `left`; and the other pieces, poorly fitted."""
    fits: list[Fit] = []
    unclear: list[tuple[Mask, Fit | None]] = []
    for piece in components(left, FRAGMENT):
        fit = (
            fit_piece(view, piece, reach=SHIFT, around=3, kept=KEPT) if piece.sum() >= LEAST_PIXELS else None
        )
        if fit is None or not _is_clear(view, fit) or (piece & ~grow(fit.mask, 2)).sum() >= LEAST_PIXELS:
            unclear.append((piece, fit))
        else:
            fits.extend(_settle(left, [fit]))
    return fits, unclear


def _apart(fits: list[Fit]) -> list[Fit]:
    """The fits without those that stand in the place of a better one."""
    kept: list[Fit] = []
    for fit in sorted(fits, key=lambda fit: fit.error):
        if all(
            (fit.mask & other.mask).sum() < OVERLAP * min(fit.mask.sum(), other.mask.sum()) for other in kept
        ):
            kept.append(fit)
    return kept


def _once_more(view: View, fits: list[Fit]) -> list[Fit]:
    """Fit what is still unclear again, now that it is known what belongs to the others."""
    settled = list(fits)
    for index, fit in enumerate(fits):
        if _is_clear(view, fit) or len(fits) == 1:
            continue
        others = np.logical_or.reduce([other.mask for place, other in enumerate(settled) if place != index])
        piece = view.solid & grow(fit.mask, 3) & ~grow(others)
        if piece.sum() >= LEAST_PIXELS:
            again = fit_piece(view, piece, reach=2 * SHIFT, around=SHIFT, kept=len(CANDIDATES))
            if again is not None and again.error < fit.error:
                settled[index] = again
    return _apart(settled)


def _is_clear(view: View, fit: Fit) -> bool:
    """Whether a fit is good, or so much better than any other shape that it needs not be."""
    if fit.solid.colour == "white":  # its dark side passes for shadow, so that its piece is never whole
        return fit.error < 0.75 * WELL_FITTED + 0.4 * view.noise
    return fit.error < WELL_FITTED + view.noise or (
        fit.error < 2 * WELL_FITTED + view.noise and fit.lead > 0.15
    )


def _settle(left: Mask, fits: list[Fit]) -> list[Fit]:
    """Take what the fits cover out of `left`."""
    for fit in fits:
        left &= ~grow(fit.mask, 2)
    return fits


def _explain(view: View, piece: Mask, left: Mask, first: Fit | None) -> list[Fit]:
    """What an unclear piece is: one solid, a part of one whose other parts pass for shadow, or several that touch."""
    options: list[tuple[Mask, list[Fit]]] = []
    if first is not None:
        options.append((piece, [first]))
        beside = components(piece & ~grow(first.mask, 2), LEAST_PIXELS)
        options.extend((piece, fits) for fits in _several(view, piece, beside))
    for whole in (piece, left & grow(piece, 4 * SHIFT)):
        fit = fit_piece(view, whole, reach=3 * SHIFT, around=4 * SHIFT, kept=len(CANDIDATES))
        if fit is None or (fit.error > HARDLY_FITTED and piece.sum() < LEAST_PIXELS):
            continue
        if _is_clear(view, fit) and not (piece & ~grow(fit.mask, 2)).sum() >= LEAST_PIXELS:
            return [fit]
        options.append((whole, [fit]))
    return min(options, key=lambda option: _total_error(*option))[1] if options else []


def _several(view: View, piece: Mask, beside: list[Mask]) -> list[list[Fit]]:
    """Ways to see two or more solids in a piece."""
    ways: list[list[Fit]] = []
    for parts in _cuts(view, piece, beside):
        fits = [fit_piece(view, part, reach=SHIFT, around=3, kept=KEPT) for part in parts]
        found = _apart([fit for fit in fits if fit is not None])
        if len(found) > 1:
            ways.append(found)
    return ways


def _cuts(view: View, piece: Mask, beside: list[Mask]) -> list[list[Mask]]:
    """Ways to cut a piece in two or more: what the first fit left over, and by colour."""
    cuts: list[list[Mask]] = []
    if beside:
        rest = np.logical_or.reduce(beside)
        cuts.append([piece & ~grow(rest, 2), *beside])
    by_colour = [
        part
        for colour in COLOURS
        for part in components(piece & (_nearest_colour(view) == tuple(COLOURS).index(colour)), LEAST_PIXELS)
    ]
    if len(by_colour) > 1:
        cuts.append(by_colour)
    return cuts


def _nearest_colour(view: View) -> Array:
    """Index of the colour [96, 96] with the most similar hue under the view's light."""
    sun = lights.LIGHT_TABLE[view.light]
    white = lights.column(sun.direct) + lights.column(sun.sky)
    seen = lights.linear(view.pixels / 255) / white
    paints = np.stack([lights.linear(lights.column(rgb))[:, 0] for rgb in COLOURS.values()])
    seen = seen / (np.linalg.norm(seen, axis=0) + 1e-6)
    paints = paints / np.linalg.norm(paints, axis=1, keepdims=True)
    nearest: Array = (paints @ seen).argmax(0).reshape(WORKING, WORKING)
    return nearest


def _total_error(piece: Mask, fits: list[Fit]) -> float:
    """Mean error over a piece and all fits; what no fit covers is wrong, and each solid more costs a little."""
    covered = np.logical_or.reduce([fit.mask for fit in fits])
    wrong = sum(fit.error * fit.mask.sum() for fit in fits) + (piece & ~grow(covered)).sum()
    return float(wrong / (piece | covered).sum()) + 0.03 * len(fits)
