"""Surfaces that a ray can hit, each in its own frame: y up, the origin at its centre.

`hit(origin, direction)` takes rays [3, n] (unit directions) and gives the distance [n] to the first crossing
ahead of the ray's start, inf where there is none. `normal(points)` takes points on the surface, [3, n].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from velatura.pocket.camera import Array

NEAR = 1e-3
"""Crossings nearer than this to the start of a ray are the surface that it leaves, metres."""


class Surface(Protocol):
    """What the renderer asks of a surface."""

    @property
    def convex(self) -> bool:
        """Whether it can cast no shadow on itself."""
        ...

    @property
    def bound(self) -> float:
        """Radius of a sphere around its origin that holds it, metres."""
        ...

    def hit(self, origin: Array, direction: Array) -> Array:
        """Distance [n] along rays [3, n]; inf: missed."""
        ...

    def normal(self, points: Array) -> Array:
        """Outward unit normals [3, n]."""
        ...

    def sheen(self, points: Array) -> Array:
        """Where a glossy coat mirrors a lamp that straight surfaces would otherwise never catch, 0..1, [n]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """A ball of half width `radius` and half height `height`; with `dome` only its upper half, closed below."""

    radius: float
    height: float
    dome: bool = False
    convex = True

    @property
    def bound(self) -> float:
        return max(self.radius, self.height)

    def hit(self, origin: Array, direction: Array) -> Array:
        scale = np.array([[1 / self.radius], [1 / self.height], [1 / self.radius]], dtype=np.float32)
        o, d = origin * scale, direction * scale
        first, last = _roots((d * d).sum(0), (o * d).sum(0), (o * o).sum(0) - 1)
        if not self.dome:
            return _ahead(first, last)
        floor = -origin[1] / _nonzero(direction[1])
        enter = np.where(direction[1] < 0, first, np.maximum(first, floor))
        leave = np.where(direction[1] < 0, np.minimum(last, floor), last)
        return _ahead(enter, np.where(enter < leave, leave, -np.inf))

    def normal(self, points: Array) -> Array:
        scale = np.array([[self.radius], [self.height], [self.radius]], dtype=np.float32)
        normals = _unit(points / scale**2)
        if self.dome:
            normals[:, points[1] < 1e-3 * self.height] = np.array([[0], [-1], [0]], dtype=np.float32)
        return normals

    def sheen(self, points: Array) -> Array:
        return np.zeros(points.shape[1], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Box:
    """A cube of half side `half`."""

    half: float
    convex = True

    @property
    def bound(self) -> float:
        return self.half * 3**0.5

    def hit(self, origin: Array, direction: Array) -> Array:
        direction = _nonzero(direction)
        middle, reach = -origin / direction, self.half / np.abs(direction)
        enter, leave = (middle - reach).max(0), (middle + reach).min(0)
        return _ahead(enter, np.where(enter < leave, leave, -np.inf))

    def normal(self, points: Array) -> Array:
        face = np.abs(points).argmax(0)
        normals = np.zeros_like(points)
        column = np.arange(points.shape[1])
        normals[face, column] = np.sign(points[face, column])
        return normals

    def sheen(self, points: Array) -> Array:
        """A slanted bar across each face."""
        face = np.abs(points).argmax(0)
        upright = np.where(face == 1, points[2], points[1])
        aside = np.where(face == 0, -points[2], points[0])
        return _bar((aside - 0.55 * upright) / self.half + 0.25, 0.24)


@dataclass(frozen=True, kw_only=True)
class Frustum:
    """A cylinder or cone: radius `base` at y = -half, radius `top` at y = +half."""

    base: float
    top: float
    half: float
    convex = True

    @property
    def bound(self) -> float:
        return float(np.hypot(max(self.base, self.top), self.half))

    @property
    def _slope(self) -> float:
        return (self.top - self.base) / (2 * self.half)

    def hit(self, origin: Array, direction: Array) -> Array:
        slope, width = self._slope, (self.base + self.top) / 2
        radius, growth = width + slope * origin[1], slope * direction[1]
        square = direction[0] ** 2 + direction[2] ** 2 - growth**2
        half = origin[0] * direction[0] + origin[2] * direction[2] - radius * growth
        rest = origin[0] ** 2 + origin[2] ** 2 - radius**2
        down = _nonzero(direction[1])
        caps = [(-self.half - origin[1]) / down, (self.half - origin[1]) / down]
        best = np.full(origin.shape[1], np.inf, dtype=np.float32)
        for t in _roots(square, half, rest):
            inside = np.abs(origin[1] + t * direction[1]) <= self.half
            best = np.where(inside & (t > NEAR) & (t < best), t, best)
        for t, limit in zip(caps, (self.base, self.top), strict=True):
            x, z = origin[0] + t * direction[0], origin[2] + t * direction[2]
            best = np.where((x * x + z * z <= limit * limit) & (t > NEAR) & (t < best), t, best)
        return best

    def normal(self, points: Array) -> Array:
        slope = self._slope
        across = np.sqrt(points[0] ** 2 + points[2] ** 2) + 1e-9
        side = np.stack([points[0] / across, np.full_like(across, -slope), points[2] / across]) / np.sqrt(
            1 + slope**2
        )
        from_side = np.abs((self.base + self.top) / 2 + slope * points[1] - across)
        from_cap = self.half - np.abs(points[1])
        cap = np.stack([0 * across, np.sign(points[1]), 0 * across])
        return np.where(from_cap < from_side, cap, side).astype(np.float32)

    def sheen(self, points: Array) -> Array:
        """A streak down the side, left of the middle, and a bar across the top."""
        azimuth = np.arctan2(points[0], -points[2])
        on_top = self.half - points[1] < 1e-3
        top = _bar((points[0] - 0.4 * points[2]) / max(self.top, 1e-3), 0.24)
        return np.where(on_top & (self.top > 0), top, _bar(azimuth + 0.45, 0.26))


@dataclass(frozen=True, kw_only=True)
class Ring:
    """A torus that stands upright and faces z: `radius` of its middle line, `tube` its thickness."""

    radius: float
    tube: float
    convex = False

    @property
    def bound(self) -> float:
        return self.radius + self.tube

    def hit(self, origin: Array, direction: Array) -> Array:
        """Sphere tracing between the two crossings of the bounding sphere."""
        result = np.full(origin.shape[1], np.inf, dtype=np.float32)
        enter, leave = _roots(
            np.ones_like(result), (origin * direction).sum(0), (origin**2).sum(0) - self.bound**2
        )
        active = np.flatnonzero((leave > NEAR) & np.isfinite(leave))
        t, leave = np.maximum(enter[active], 8 * NEAR), leave[active]
        origin, direction = origin[:, active], direction[:, active]
        for _ in range(48):
            gap = self._distance(origin + t * direction)
            done = gap < 2e-4
            result[active[done]] = t[done]
            keep = ~done & (t < leave)
            if not keep.any():
                break
            active, t, leave = active[keep], (t + gap)[keep], leave[keep]
            origin, direction = origin[:, keep], direction[:, keep]
        return result

    def normal(self, points: Array) -> Array:
        across = np.sqrt(points[0] ** 2 + points[1] ** 2) + 1e-9
        middle = points.copy()
        middle[:2] *= self.radius / across
        middle[2] = 0
        return _unit(points - middle)

    def sheen(self, points: Array) -> Array:
        return np.zeros(points.shape[1], dtype=np.float32)

    def _distance(self, points: Array) -> Array:
        across = np.sqrt(points[0] ** 2 + points[1] ** 2) - self.radius
        gap: Array = np.sqrt(across**2 + points[2] ** 2) - self.tube
        return gap


def _bar(offset: Array, half_width: float) -> Array:
    """1 in the middle of a bar, falling smoothly to 0 at its borders."""
    return (1 - np.clip(np.abs(offset) / half_width, 0, 1) ** 2).astype(np.float32)


def _roots(square: Array, half: Array, rest: Array) -> tuple[Array, Array]:
    """Both roots of square t^2 + 2 half t + rest = 0 in order; inf and -inf where there are none."""
    inner = half * half - square * rest
    root = np.sqrt(np.maximum(inner, 0))
    square = _nonzero(square)
    one, two = (-half - root) / square, (-half + root) / square
    return (
        np.where(inner >= 0, np.minimum(one, two), np.inf).astype(np.float32),
        np.where(inner >= 0, np.maximum(one, two), -np.inf).astype(np.float32),
    )


def _ahead(enter: Array, leave: Array) -> Array:
    """The first of two crossings that lies ahead of the start."""
    return np.where(leave <= NEAR, np.inf, np.where(enter > NEAR, enter, leave)).astype(np.float32)


def _nonzero(values: Array) -> Array:
    return np.where(np.abs(values) < 1e-9, np.float32(1e-9), values)


def _unit(vectors: Array) -> Array:
    unit: Array = (vectors / (np.sqrt((vectors**2).sum(0)) + 1e-12)).astype(np.float32)
    return unit
