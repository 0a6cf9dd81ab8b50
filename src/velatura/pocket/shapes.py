"""What each shape is made of: surfaces placed in the world, and how they are painted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from velatura.pocket.camera import Array
from velatura.pocket.scenes import Solid
from velatura.pocket.surfaces import Box, Ellipsoid, Frustum, Ring, Surface

Stripes = Literal["height", "around"]

CARROT: Final = (0.98, 0.42, 0.06)
COAL: Final = (0.08, 0.08, 0.10)
CREAM: Final = (0.93, 0.86, 0.72)

EXTENT: Final[dict[str, tuple[float, float, float, float]]] = {
    "sphere": (1.00, 2.00, 0.21, 0.21),
    "cube": (1.10, 1.56, 1.10, 1.10),
    "cylinder": (0.74, 1.76, 0.74, 0.74),
    "cone": (0.92, 2.00, 0.92, 0.00),
    "torus": (0.98, 1.96, 0.12, 0.12),
    "snowman": (0.66, 2.46, 0.14, 0.08),
    "mushroom": (1.00, 1.86, 0.42, 0.22),
}
"""Half width, height, and reach to the viewer at the foot and away from it at the top, in radii of the solid."""

BAND: Final = 0.56
"""Height of one pair of stripes, in radii of the solid."""
BANDS_AROUND: Final = 8
"""Pairs of stripes around a torus."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One surface of a solid, placed: columns of `axes` are its own axes in the world frame.

    `paint` None means the colour and material of the solid; else a fixed matte sRGB colour.
    """

    surface: Surface
    centre: Array
    axes: Array
    radius: float
    paint: tuple[float, float, float] | None = None
    stripes: Stripes = "height"

    def hit(self, origin: Array, direction: Array) -> Array:
        """Distance [n] along rays given in the world frame, [3, n]; inf: missed."""
        local, heading = self.axes.T @ (origin - self.centre[:, None]), self.axes.T @ direction
        # Rays from far away start again beside the surface: float32 keeps its digits there.
        skipped = np.maximum(-(local * heading).sum(0) - 2 * self.surface.bound, 0)
        distance: Array = self.surface.hit(local + skipped * heading, heading) + skipped
        return distance

    def normal(self, points: Array) -> Array:
        """Outward unit normals [3, n] in the world frame."""
        return self.axes @ self.surface.normal(self.axes.T @ (points - self.centre[:, None]))

    def sheen(self, points: Array) -> Array:
        """Where a glossy coat mirrors a lamp, 0..1, [n]."""
        return self.surface.sheen(self.axes.T @ (points - self.centre[:, None]))

    def light_band(self, points: Array) -> Array:
        """1 in light stripes, 0 in dark ones, [n]."""
        if self.stripes == "around":
            local = self.axes.T @ (points - self.centre[:, None])
            phase = np.arctan2(local[1], local[0]) * (BANDS_AROUND / (2 * math.pi))
        else:
            phase = points[1] / (BAND * self.radius) + 0.25
        light: Array = ((phase % 1.0) < 0.5).astype(np.float32)
        return light


def yaw(x: float, z: float) -> float:
    """How far a solid at (x, z) metres is turned about the vertical, radians: smooth in its place."""
    return math.radians(30 + 11 * math.sin(2.6 * x + 1.7 * z))


def parts_of(solid: Solid) -> tuple[Part, ...]:
    """The surfaces of a solid where it stands on the table."""
    turned = yaw(solid.x, solid.z)
    if solid.shape == "torus":
        turned = 2.2 * (turned - math.radians(30))
    return _BUILDERS[solid.shape](_Stand(x=solid.x, z=solid.z, radius=solid.radius, turned=turned))


@dataclass(frozen=True, kw_only=True)
class _Stand:
    x: float
    z: float
    radius: float
    turned: float

    def part(
        self,
        surface: Surface,
        *,
        up: float,
        ahead: float = 0.0,
        aside: float = 0.0,
        axes: Array | None = None,
        paint: tuple[float, float, float] | None = None,
        stripes: Stripes = "height",
    ) -> Part:
        """A part `up`, `ahead` (to the viewer) and `aside` of the foot of the solid, all in radii."""
        away = np.array([aside, up, -ahead], dtype=np.float32) * self.radius
        centre = np.array([self.x, 0, self.z], dtype=np.float32) + away
        placed = np.eye(3, dtype=np.float32) if axes is None else axes
        return Part(
            surface=surface, centre=centre, axes=placed, radius=self.radius, paint=paint, stripes=stripes
        )

    @property
    def axes(self) -> Array:
        """Axes turned about the vertical."""
        c, s = math.cos(self.turned), math.sin(self.turned)
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=np.float32)


def _sphere(stand: _Stand) -> tuple[Part, ...]:
    return (stand.part(Ellipsoid(radius=stand.radius, height=stand.radius), up=1.0),)


def _cube(stand: _Stand) -> tuple[Part, ...]:
    return (stand.part(Box(half=0.78 * stand.radius), up=0.78, axes=stand.axes),)


def _cylinder(stand: _Stand) -> tuple[Part, ...]:
    r = stand.radius
    return (stand.part(Frustum(base=0.74 * r, top=0.74 * r, half=0.88 * r), up=0.88),)


def _cone(stand: _Stand) -> tuple[Part, ...]:
    return (stand.part(Frustum(base=0.92 * stand.radius, top=0.0, half=stand.radius), up=1.0),)


def _torus(stand: _Stand) -> tuple[Part, ...]:
    ring = Ring(radius=0.67 * stand.radius, tube=0.31 * stand.radius)
    return (stand.part(ring, up=0.98, axes=stand.axes, stripes="around"),)


def _snowman(stand: _Stand) -> tuple[Part, ...]:
    r = stand.radius
    balls = [
        stand.part(Ellipsoid(radius=size * r, height=size * r), up=up)
        for size, up in ((0.66, 0.62), (0.48, 1.46), (0.35, 2.10))
    ]
    forward = np.array([[1, 0, 0], [0, -0.25, 0.97], [0, -0.97, -0.25]], dtype=np.float32)
    nose = stand.part(
        Frustum(base=0.10 * r, top=0.0, half=0.24 * r), up=2.06, ahead=0.52, axes=forward, paint=CARROT
    )
    eye = Ellipsoid(radius=0.075 * r, height=0.075 * r)
    eyes = [stand.part(eye, up=2.24, ahead=0.30, aside=side, paint=COAL) for side in (-0.14, 0.14)]
    buttons = [stand.part(eye, up=up, ahead=0.46, paint=COAL) for up in (1.35, 1.62)]
    return (*balls, nose, *eyes, *buttons)


def _mushroom(stand: _Stand) -> tuple[Part, ...]:
    r = stand.radius
    stem = stand.part(Frustum(base=0.42 * r, top=0.32 * r, half=0.5 * r), up=0.5, paint=CREAM)
    cap = stand.part(Ellipsoid(radius=r, height=0.94 * r, dome=True), up=0.92)
    return (stem, cap)


_BUILDERS: Final = {
    "sphere": _sphere,
    "cube": _cube,
    "cylinder": _cylinder,
    "cone": _cone,
    "torus": _torus,
    "snowman": _snowman,
    "mushroom": _mushroom,
}
