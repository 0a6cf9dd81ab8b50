"""Pictures of scenes, with exact depth, normals, masks and edges (analytic ray tracing in numpy)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from velatura.errors import DataError
from velatura.pocket import lights
from velatura.pocket.camera import EYE, FORWARD, RIGHT, UP, Array
from velatura.pocket.scenes import COLOURS, Scene, Solid
from velatura.pocket.tracing import Hits, Table, empty_table, lit, table_shadow, trace

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SAMPLES: Final = 2
"""Samples per pixel and side."""
CREASE: Final = 0.85
"""Neighbours whose normals have a smaller cosine are an edge."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What is exactly known at each pixel centre.

    depth: float32 [H, W], metres along the camera's axis. normals: float32 [H, W, 3], unit, camera frame: x right,
    y up, z to the viewer. masks: bool [N, H, W], the visible pixels of each solid. edges: bool [H, W].
    """

    depth: Array
    normals: Array
    masks: Mask
    edges: Mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Render(Truth):
    """A picture, uint8 sRGB [H, W, 3], with its truth."""

    image: Image


@dataclass(frozen=True, kw_only=True, eq=False)
class Shading:
    """Light on the samples that hit solids, before any colour.

    `diffuse` and `gloss` are linear, [3, m]; `band` [m] is 1 in light stripes.
    """

    diffuse: Array
    gloss: Array
    band: Array


def render(scene: Scene, size: int = 96) -> Render:
    """Draw a scene, size x size pixels, with its truth; raises DataError when size is below 16."""
    truth = measure(scene, size)
    return Render(
        image=draw(scene, size),
        depth=truth.depth,
        normals=truth.normals,
        masks=truth.masks,
        edges=truth.edges,
    )


def draw(scene: Scene, size: int = 96) -> Image:
    """Only the picture of a scene, uint8 sRGB [size, size, 3]; raises DataError when size is below 16."""
    _check_size(size)
    grid = size * SAMPLES
    hits = trace(scene.solids, size, SAMPLES)
    table = empty_table(scene.light, size, SAMPLES)
    unseen = np.zeros(grid * grid, dtype=bool)
    unseen[hits.sample] = True
    direct, ambient = table.direct.copy(), table.ambient
    direct[:, table_shadow(table, hits, scene.light, grid, unseen)] = 0
    radiance = direct + ambient * _openness(table, scene.solids)
    radiance[:, hits.sample] = paint(hits, shade(hits, scene.light, grid), scene.solids)
    pixels = radiance.reshape(3, size, SAMPLES, size, SAMPLES).mean(axis=(2, 4))
    return to_bytes(lights.srgb(pixels).transpose(1, 2, 0))


def measure(scene: Scene, size: int = 96) -> Truth:
    """Depth, normals, masks and edges of a scene, without its picture; raises DataError when size is below 16."""
    _check_size(size)
    hits = trace(scene.solids, size, 1)
    table = empty_table(scene.light, size, 1)
    points, normals = table.points.copy(), table.normals.copy()
    points[:, hits.sample], normals[:, hits.sample] = hits.points, hits.normals
    owner = np.full((size, size), -1, dtype=np.int64)
    owner.reshape(-1)[hits.sample] = hits.owner
    seen = np.stack([RIGHT @ normals, UP @ normals, -FORWARD @ normals], axis=-1).reshape(size, size, 3)
    masks = owner[None] == np.arange(len(scene.solids))[:, None, None]
    depth = (FORWARD @ (points - EYE[:, None])).reshape(size, size)
    return Truth(
        depth=depth.astype(np.float32),
        normals=seen.astype(np.float32),
        masks=masks,
        edges=_edges(owner, seen),
    )


def shade(hits: Hits, light: str, grid: int) -> Shading:
    """Light that falls on solids, and what a glossy coat would mirror."""
    sun = lights.LIGHT_TABLE[light]
    open_ = lit(hits, light, grid)
    facing = np.clip(hits.normals.T @ sun.towards, 0, 1) * open_
    low = np.clip(hits.points[1] / 0.35, 0, 1)
    ambient = lights.ambient(light, hits.normals) * (0.55 + 0.45 * np.sqrt(low))
    diffuse = ambient + lights.column(sun.direct) * facing
    towards_eye = (EYE[:, None] - hits.points) / hits.distance
    cosine = np.clip((hits.normals * towards_eye).sum(0), 0, 1)
    mirrored = 2 * cosine * hits.normals - towards_eye
    fresnel = 0.07 + 0.40 * (1 - cosine) ** 4
    halfway = towards_eye + sun.towards[:, None]
    halfway /= np.sqrt((halfway**2).sum(0))
    highlight = np.clip((hits.normals * halfway).sum(0), 0, 1) ** 48 * open_
    band, sheen = np.zeros((2, hits.sample.size), dtype=np.float32)
    for index, part in enumerate(hits.parts):
        mine = hits.part == index
        band[mine], sheen[mine] = part.light_band(hits.points[:, mine]), part.sheen(hits.points[:, mine])
    lamp = lights.column(sun.direct) * (1.5 * highlight + 0.42 * sheen)
    gloss = fresnel * lights.environment(light, mirrored) + lamp
    return Shading(diffuse=diffuse.astype(np.float32), gloss=gloss.astype(np.float32), band=band)


def paint(hits: Hits, shading: Shading, solids: tuple[Solid, ...]) -> Array:
    """Radiance [3, m] of the samples that hit solids."""
    radiance = np.empty_like(shading.diffuse)
    for index, part in enumerate(hits.parts):
        mine = np.flatnonzero(hits.part == index)
        if not mine.size:
            continue
        diffuse = shading.diffuse[:, mine]
        if part.paint is not None:
            radiance[:, mine] = diffuse * lights.paint(part.paint)
            continue
        solid = solids[int(hits.owner[mine[0]])]
        coat = shading.gloss[:, mine]
        radiance[:, mine] = surface_radiance(solid.colour, solid.material, diffuse, coat, shading.band[mine])
    return radiance


def surface_radiance(colour: str, material: str, diffuse: Array, gloss: Array, band: Array) -> Array:
    """Radiance [3, m] of a surface of some colour and material under the given light."""
    albedo = lights.paint(COLOURS[colour])
    if material == "glossy":
        return diffuse * albedo * 0.92 + gloss
    if material == "striped":
        return diffuse * np.where(band > 0.5, albedo * 0.9 + 0.1, albedo * 0.26)
    return diffuse * albedo


def to_bytes(image: Array) -> Image:
    """Values in 0..1 -> 0..255, rounded."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _openness(table: Table, solids: tuple[Solid, ...]) -> Array:
    """Share of the sky [N] that the table sees past the solids (each taken as a ball on the table)."""
    hidden = np.zeros(table.points.shape[1], dtype=np.float32)
    for solid in solids:
        radius = 0.85 * solid.radius
        x, z = table.points[0] - solid.x, table.points[2] - solid.z
        square = x * x + z * z + (table.points[1] - radius) ** 2
        facing = table.normals[1] * radius / np.sqrt(square)
        hidden += 0.9 * facing * radius**2 / np.maximum(square, radius**2)
    return 1 - np.minimum(hidden, 0.9)


def _edges(owner: NDArray[np.int64], normals: Array) -> Mask:
    edges = np.zeros(owner.shape, dtype=bool)
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        crease = (normals[here] * normals[there]).sum(-1) < CREASE
        edges[here] |= crease | (owner[here] != owner[there])
    return edges


def _check_size(size: int) -> None:
    if size < 16:
        raise DataError(f"a pocket picture is at least 16 pixels wide, not {size}")
