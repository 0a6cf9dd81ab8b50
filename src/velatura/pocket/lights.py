"""The three lights of the pocket world, and what they do to a surface.

Radiance is linear, 1.0 is the brightest that a pixel shows; arrays of colours are [3, n].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from velatura.pocket.camera import Array

Rgb = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Light:
    """A sun or moon, the sky's glow, and the backdrop behind the table.

    `azimuth` is where the light comes from: 0 = from behind the viewer, 90 = from the right (degrees).
    """

    elevation: float
    azimuth: float
    softness: float
    direct: Rgb
    sky: Rgb
    bounce: Rgb
    wall_low: Rgb
    wall_high: Rgb

    @property
    def towards(self) -> Array:
        """Unit vector to the light, world frame."""
        up, round_ = math.radians(self.elevation), math.radians(self.azimuth)
        flat = math.cos(up)
        return np.array([flat * math.sin(round_), math.sin(up), -flat * math.cos(round_)], dtype=np.float32)


LIGHT_TABLE: Final[dict[str, Light]] = {
    "noon": Light(
        elevation=60, azimuth=-38, softness=0.05,
        direct=(0.80, 0.78, 0.73), sky=(0.34, 0.37, 0.42), bounce=(0.17, 0.16, 0.15),
        wall_low=(0.80, 0.88, 0.93), wall_high=(0.45, 0.66, 0.86),
    ),
    "dusk": Light(
        elevation=25, azimuth=58, softness=0.06,
        direct=(0.95, 0.66, 0.40), sky=(0.26, 0.22, 0.27), bounce=(0.15, 0.11, 0.09),
        wall_low=(0.99, 0.72, 0.45), wall_high=(0.72, 0.40, 0.47),
    ),
    "night": Light(
        elevation=48, azimuth=-62, softness=0.04,
        direct=(0.58, 0.59, 0.74), sky=(0.14, 0.155, 0.25), bounce=(0.07, 0.075, 0.11),
        wall_low=(0.17, 0.21, 0.38), wall_high=(0.05, 0.06, 0.16),
    ),
}  # fmt: skip

TABLE: Final[Rgb] = (0.70, 0.66, 0.61)
"""Colour of the table top, sRGB."""


@lru_cache(maxsize=8)
def directions(name: str) -> Array:
    """Unit vectors to four points of the light's disc, [3, 4]: one per sample of a pixel, for soft shadows."""
    light = LIGHT_TABLE[name]
    centre = light.towards
    side = np.cross(centre, np.array([0, 1, 0], dtype=np.float32))
    side /= np.linalg.norm(side)
    over = np.cross(side, centre)
    offsets = light.softness * np.array(
        [[-0.9, 0.4], [0.4, 0.9], [-0.4, -0.9], [0.9, -0.4]], dtype=np.float32
    )
    disc = centre[:, None] + np.outer(side, offsets[:, 0]) + np.outer(over, offsets[:, 1])
    unit: Array = (disc / np.linalg.norm(disc, axis=0)).astype(np.float32)
    unit.setflags(write=False)
    return unit


def ambient(name: str, normals: Array) -> Array:
    """Light that reaches surfaces [3, n] from the sky and the table, [3, n]."""
    light = LIGHT_TABLE[name]
    upward = 0.5 + 0.5 * normals[1]
    glow: Array = column(light.bounce) + (column(light.sky) - column(light.bounce)) * upward
    return glow


def backdrop(name: str, height: Array) -> Array:
    """Radiance [3, n] of the backdrop at a height of 0 (table edge) to 1 (top)."""
    light = LIGHT_TABLE[name]
    low, high = linear(column(light.wall_low)), linear(column(light.wall_high))
    return low + (high - low) * np.clip(height, 0, 1)


def environment(name: str, rays: Array) -> Array:
    """Radiance [3, n] that a mirror sees in the directions [3, n]: table below, sky above, a window of light."""
    light = LIGHT_TABLE[name]
    sky = backdrop(name, rays[1] * 1.2)
    below = linear(column(TABLE)) * (column(light.direct) * 0.7 + column(light.sky))
    mix = np.clip(0.5 + rays[1] * 6, 0, 1)
    window = np.clip((rays.T @ light.towards - 0.90) * 25, 0, 1)
    seen: Array = below + (sky - below) * mix + window * 2.2 * column(light.direct)
    return seen


def linear(srgb: Array) -> Array:
    """sRGB in 0..1 -> linear light (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def srgb(radiance: Array) -> Array:
    """Linear light -> sRGB in 0..1 (IEC 61966-2-1), clipped."""
    light = np.clip(radiance, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)


@lru_cache(maxsize=64)
def paint(rgb: Rgb) -> Array:
    """The linear colour [3, 1] of an sRGB paint."""
    colour = linear(column(rgb))
    colour.setflags(write=False)
    return colour


def column(rgb: Rgb) -> Array:
    """A colour as [3, 1]."""
    return np.array(rgb, dtype=np.float32)[:, None]
