"""Where solids may stand: in the frame, silhouettes apart, left and right clear; and sampling of whole scenes."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from velatura.errors import DataError
from velatura.pocket.camera import DISTANCE, PIXELS_PER_METRE, project_point
from velatura.pocket.scenes import COLOURS, LIGHTS, SHAPES, Scene, Solid, Split, held_out, sample_attributes
from velatura.pocket.shapes import EXTENT

MARGIN: Final = 0.025
"""Free border of the frame and gap between silhouettes, as a share of the image's width."""
APART: Final = 0.17
"""Least horizontal distance between the middles of two solids, as a share of the image's width."""
COUNT_SHARES: Final = (0.45, 0.40, 0.15)
"""How often a scene has one, two, three solids."""
NEAREST, FARTHEST = -1.45, 0.95


def silhouette(solid: Solid, size: int) -> tuple[float, float, float, float]:
    """Box around a solid in an image of size x size: left, top, right, bottom in pixels."""
    half, top, foot, head = (share * solid.radius for share in EXTENT[solid.shape])
    corners = [
        project_point(solid.x + across, height, solid.z + along)
        for across, height, along in (
            (-half, 0.4 * top, 0.0), (half, 0.4 * top, 0.0), (0.0, 0.0, -foot), (0.0, top, head),
        )
    ]  # fmt: skip
    columns, rows = [corner[0] for corner in corners], [corner[1] for corner in corners]
    return min(columns) * size, min(rows) * size, max(columns) * size, max(rows) * size


def fits(scene: Scene) -> bool:
    """Whether every silhouette lies in the frame, apart from the others, and left and right are clear."""
    boxes = [silhouette(solid, 1) for solid in scene.solids]
    if any(min(box[:2]) < MARGIN or max(box[2:]) > 1 - MARGIN for box in boxes):
        return False
    return all(_apart(a, b) for index, a in enumerate(boxes) for b in boxes[index + 1 :])


def sample_scene(rng: np.random.Generator, count: int | None = None, split: Split = "train") -> Scene:
    """A random scene of `count` solids (None: one to three), from one side of the held-out rule.

    Raises DataError for a count outside 1..3.
    """
    if count is not None and not 1 <= count <= 3:
        raise DataError(f"a scene has 1 to 3 solids, not {count}")
    number = count or 1 + int(rng.choice(3, p=COUNT_SHARES))
    light = LIGHTS[rng.integers(len(LIGHTS))]
    while True:
        solids = tuple(sample_attributes(rng, SHAPES, tuple(COLOURS)) for _ in range(number))
        if held_out(Scene(solids=solids, light=light)) != (split == "held-out"):
            continue
        placed = place(rng, solids, light)
        if placed is not None:
            return placed


def place(rng: np.random.Generator, solids: tuple[Solid, ...], light: str, tries: int = 200) -> Scene | None:
    """Stand solids at random places that fit, or None when none was found."""
    for _ in range(tries):
        depths = rng.uniform(NEAREST, FARTHEST, len(solids))
        shares = rng.uniform(-1, 1, len(solids))
        standing = tuple(
            replace(solid, x=round(float(share * _room(solid, depth)), 4), z=round(float(depth), 4))
            for solid, depth, share in zip(solids, depths, shares, strict=True)
        )
        scene = Scene(solids=standing, light=light)
        if fits(scene):
            return scene
    return None


def _room(solid: Solid, depth: float) -> float:
    """How far from the middle a solid can stand and still be in the frame, metres."""
    half_view = (0.5 - MARGIN) / PIXELS_PER_METRE * (DISTANCE + 0.9 * depth) / DISTANCE
    return max(half_view - EXTENT[solid.shape][0] * solid.radius, 0.0)


def _apart(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    if abs(a[0] + a[2] - b[0] - b[2]) / 2 < APART:
        return False
    across = max(a[0], b[0]) - min(a[2], b[2])
    down = max(a[1], b[1]) - min(a[3], b[3])
    return max(across, down) >= MARGIN
