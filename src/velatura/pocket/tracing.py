"""Rays against the solids of a scene: what each sample of the image sees, and what lies in shadow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from velatura.pocket import lights
from velatura.pocket.camera import EYE, FOCAL, Array, depth_of, project_point, rays
from velatura.pocket.scenes import Solid
from velatura.pocket.shapes import Part, parts_of

Index = NDArray[np.int64]

WALL: Final = 1.55
"""Where the table ends and the backdrop stands, metres along z."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Hits:
    """What the samples that hit a solid see.

    `sample` [m]: flat index into the [G, G] grid of samples; `owner` and `part` [m]: index of the solid and of the
    part; `points`, `normals` [3, m] in the world frame, metres; `distance` [m] along the ray.
    """

    sample: Index
    owner: Index
    part: Index
    points: Array
    normals: Array
    distance: Array
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """The empty table as the samples see it: all arrays [3, N] over the flat grid.

    `across` [2, N] are the points as seen from the light, which makes shadow tests two-dimensional.
    """

    points: Array
    normals: Array
    ambient: Array
    direct: Array
    across: Array


def trace(solids: tuple[Solid, ...], size: int, samples: int) -> Hits:
    """Send size * samples squared rays at the solids."""
    grid = size * samples
    nearest = np.full((grid, grid), np.inf, dtype=np.float32)
    which = np.full((grid, grid), -1, dtype=np.int64)
    parts: list[Part] = []
    owners: list[int] = []
    for owner, solid in enumerate(solids):
        for part in parts_of(solid):
            rows, columns = _window(part, grid)
            towards = rays(size, samples)[:, rows, columns]
            shape = towards.shape[1:]
            if 0 not in shape:
                distance = part.hit(EYE[:, None], towards.reshape(3, -1)).reshape(shape)
                closer = distance < nearest[rows, columns]
                nearest[rows, columns][closer] = distance[closer]
                which[rows, columns][closer] = len(parts)
            parts.append(part)
            owners.append(owner)
    return _gather(nearest.ravel(), which.ravel(), tuple(parts), owners, rays(size, samples).reshape(3, -1))


def _gather(nearest: Array, which: Index, parts: tuple[Part, ...], owners: list[int], towards: Array) -> Hits:
    sample = np.flatnonzero(which >= 0)
    part, distance = which[sample], nearest[sample]
    points = EYE[:, None] + distance * towards[:, sample]
    normals = np.empty_like(points)
    for index, surface in enumerate(parts):
        mine = part == index
        if mine.any():
            normals[:, mine] = surface.normal(points[:, mine])
    owner = np.asarray(owners, dtype=np.int64)[part] if owners else part
    return Hits(
        sample=sample, owner=owner, part=part, points=points, normals=normals, distance=distance, parts=parts
    )


def _window(part: Part, grid: int) -> tuple[slice, slice]:
    """Rows and columns of the grid that can see a part."""
    x, y, z = (float(value) for value in part.centre)
    column, row = (grid * share for share in project_point(x, y, z))
    depth, bound = depth_of(y, z), part.surface.bound
    reach = bound * FOCAL * grid / (depth - bound) * 1.02 + 1
    return _clipped(row, reach, grid), _clipped(column, reach, grid)


def _clipped(middle: float, reach: float, grid: int) -> slice:
    low, high = (min(max(int(end), 0), grid) for end in (middle - reach, middle + reach + 1))
    return slice(low, high)


def lit(hits: Hits, light: str, grid: int) -> Array:
    """Share of the light [m] that is not kept off by a solid, 0 or 1, at each hit of a grid x grid image."""
    open_ = np.ones(hits.sample.size, dtype=np.float32)
    towards = _towards(light, hits.sample, grid)
    start = hits.points + 2e-3 * hits.normals
    facing = (hits.normals * towards).sum(0) > 0
    for index, part in enumerate(hits.parts):
        if part.surface.bound < 0.2 * part.radius:
            continue
        others = hits.part != index if part.surface.convex else np.ones_like(facing)
        test = np.flatnonzero(facing & others & (open_ > 0) & _near_line(part, start, towards))
        if test.size:
            open_[test[np.isfinite(part.hit(start[:, test], towards[:, test]))]] = 0
    return open_


def table_shadow(table: Table, hits: Hits, light: str, grid: int, unseen: NDArray[np.bool_]) -> Index:
    """Flat indices of the samples of the table that lie in a shadow; `unseen` [N] marks those behind a solid."""
    shadowed = np.zeros(table.points.shape[1], dtype=bool)
    softness = lights.LIGHT_TABLE[light].softness
    plane = _light_plane(light)
    for part in hits.parts:
        if part.surface.bound < 0.2 * part.radius:
            continue
        centre = plane @ part.centre
        reach = part.surface.bound + 2.5 * softness
        away = (table.across[0] - centre[0]) ** 2 + (table.across[1] - centre[1]) ** 2
        test = np.flatnonzero((away < reach * reach) & ~unseen & ~shadowed)
        start = table.points[:, test] + 1e-3 * table.normals[:, test]
        shadowed[test] = np.isfinite(part.hit(start, _towards(light, test, grid)))
    return np.flatnonzero(shadowed)


@lru_cache(maxsize=16)
def empty_table(light: str, size: int, samples: int) -> Table:
    """The table and the backdrop with nothing on them."""
    towards = rays(size, samples).reshape(3, -1)
    down, back = -EYE[1] / np.minimum(towards[1], -1e-6), (WALL - EYE[2]) / towards[2]
    on_floor = down < back
    points = EYE[:, None] + np.where(on_floor, down, back) * towards
    normals = np.where(on_floor, np.array([[0], [1], [0]]), np.array([[0], [0], [-1]])).astype(np.float32)
    paint = _table_paint(points)
    facing = np.clip(normals.T @ lights.LIGHT_TABLE[light].towards, 0, 1)
    ambient = paint * lights.ambient(light, normals)
    direct = paint * facing * lights.column(lights.LIGHT_TABLE[light].direct)
    wall = lights.backdrop(light, points[1] / 1.3)
    ambient = np.where(on_floor, ambient, 0.72 * wall).astype(np.float32)
    direct = np.where(on_floor, direct, 0.28 * wall).astype(np.float32)
    across = (_light_plane(light) @ points).astype(np.float32)
    return Table(points=points, normals=normals, ambient=ambient, direct=direct, across=across)


def _table_paint(points: Array) -> Array:
    """A faint checker of half a metre, darker to the rim."""
    squares = np.floor(points[0] / 0.5 + 0.5) + np.floor(points[2] / 0.5 + 0.5)
    checker = np.where(squares % 2 == 0, 1.0, 0.90)
    vignette = 1.06 - 0.10 * (points[0] ** 2 + 0.6 * (points[2] + 0.3) ** 2)
    paint: Array = (lights.linear(lights.column(lights.TABLE)) * checker * vignette).astype(np.float32)
    return paint


def _towards(light: str, sample: Index, grid: int) -> Array:
    """Directions [3, n] to the light: each of the four samples of a pixel sees another point of its disc."""
    directions = lights.directions(light)
    return directions[:, 2 * ((sample // grid) % 2) + sample % 2]


def _near_line(part: Part, start: Array, towards: Array) -> NDArray[np.bool_]:
    """Whether lines [3, n] pass the part's bounding sphere, ahead of their start."""
    to_centre = part.centre[:, None] - start
    along = (to_centre * towards).sum(0)
    near: NDArray[np.bool_] = (to_centre**2).sum(0) - along * along.clip(min=0) < part.surface.bound**2
    return near


@lru_cache(maxsize=8)
def _light_plane(light: str) -> Array:
    """Two unit vectors [2, 3] across the light's direction."""
    towards = lights.LIGHT_TABLE[light].towards
    side = np.cross(towards, np.array([0, 1, 0], dtype=np.float32))
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(side, towards)]).astype(np.float32)
