"""Ray hits against the plain inequality that says what is inside of each surface."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from velatura.pocket.camera import Array
from velatura.pocket.surfaces import Box, Ellipsoid, Frustum, Ring, Surface

CASES: dict[str, tuple[Surface, Callable[[Array], Array]]] = {
    "ball": (Ellipsoid(radius=0.5, height=0.5), lambda p: (p**2).sum(0) < 0.25),
    "egg": (
        Ellipsoid(radius=0.5, height=0.3),
        lambda p: (p[0] / 0.5) ** 2 + (p[1] / 0.3) ** 2 + (p[2] / 0.5) ** 2 < 1,
    ),
    "dome": (Ellipsoid(radius=0.5, height=0.4, dome=True), lambda p: ((p[0] ** 2 + p[2] ** 2) / 0.25 + p[1] ** 2 / 0.16 < 1) & (p[1] > 0)),
    "box": (Box(half=0.4), lambda p: np.abs(p).max(0) < 0.4),
    "cylinder": (
        Frustum(base=0.3, top=0.3, half=0.4),
        lambda p: (p[0] ** 2 + p[2] ** 2 < 0.09) & (np.abs(p[1]) < 0.4),
    ),
    "cone": (
        Frustum(base=0.4, top=0.0, half=0.5),
        lambda p: (np.sqrt(p[0] ** 2 + p[2] ** 2) < 0.4 * (0.5 - p[1])) & (np.abs(p[1]) < 0.5),
    ),
    "ring": (
        Ring(radius=0.35, tube=0.15),
        lambda p: (np.sqrt(p[0] ** 2 + p[1] ** 2) - 0.35) ** 2 + p[2] ** 2 < 0.0225,
    ),
}  # fmt: skip


def rays(count: int = 400) -> tuple[Array, Array]:
    rng = np.random.default_rng(5)
    origin = rng.normal(size=(3, count))
    origin *= 1.5 / np.linalg.norm(origin, axis=0)
    direction = rng.uniform(-0.45, 0.45, (3, count)) - origin
    direction /= np.linalg.norm(direction, axis=0)
    return origin.astype(np.float32), direction.astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_first_crossing_agrees_with_marching(name: str) -> None:
    surface, inside = CASES[name]
    origin, direction = rays()
    steps = np.linspace(0, 3, 3001)
    marched = np.full(origin.shape[1], np.inf)
    for step in steps[::-1]:
        marched[inside(origin + step * direction)] = step
    found = surface.hit(origin, direction)
    both = np.isfinite(marched) & np.isfinite(found)
    assert both.sum() > 60
    assert (np.isfinite(marched) != np.isfinite(found)).mean() < 0.02  # grazing rays fall between two steps
    assert np.abs(marched[both] - found[both]).max() < 0.02
    assert np.median(np.abs(marched[both] - found[both])) < 1e-3


@pytest.mark.parametrize("name", CASES)
def test_normals_point_out_of_the_surface(name: str) -> None:
    surface, inside = CASES[name]
    origin, direction = rays()
    distance = surface.hit(origin, direction)
    hit = np.isfinite(distance)
    points = (origin + np.where(hit, distance, 0) * direction)[:, hit]
    normals = surface.normal(points)
    assert np.allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-4)
    assert inside(points - 5e-3 * normals).mean() > 0.97
    assert not inside(points + 5e-3 * normals).any()
