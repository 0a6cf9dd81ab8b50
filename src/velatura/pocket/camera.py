"""The pocket camera: one fixed pinhole that looks down at the table.

World frame: metres, x to the right, y up, z away from the viewer; the table top is y = 0.
Arrays of vectors are [3, n].
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

DISTANCE: Final = 8.0
PITCH: Final = math.radians(24.0)
PIXELS_PER_METRE: Final = 37.0 / 96.0
"""Scale at the target, as a share of the image's width."""
TARGET: Final = (0.0, 0.36, 0.0)

FORWARD: Final = np.array([0.0, -math.sin(PITCH), math.cos(PITCH)], dtype=np.float32)
UP: Final = np.array([0.0, math.cos(PITCH), math.sin(PITCH)], dtype=np.float32)
RIGHT: Final = np.array([1.0, 0.0, 0.0], dtype=np.float32)
EYE: Final = np.array(TARGET, dtype=np.float32) - DISTANCE * FORWARD
_EYE_Y, _EYE_Z = float(EYE[1]), float(EYE[2])
FOCAL: Final = DISTANCE * PIXELS_PER_METRE
"""Focal length as a share of the image's width."""


def project_point(x: float, y: float, z: float) -> tuple[float, float]:
    """One point in metres -> (column, row) as a share of the image's width, 0..1 inside the frame."""
    over, away = y - _EYE_Y, z - _EYE_Z
    scale = FOCAL / depth_of(y, z)
    return 0.5 + x * scale, 0.5 - (over * math.cos(PITCH) + away * math.sin(PITCH)) * scale


def depth_of(y: float, z: float) -> float:
    """Distance of a point from the camera, along the camera's axis, metres."""
    return (z - _EYE_Z) * math.cos(PITCH) - (y - _EYE_Y) * math.sin(PITCH)


def on_table(column: float, row: float, size: int) -> tuple[float, float]:
    """The (x, z) in metres of the point of the table top that is seen at a pixel of an image of size x size."""
    across = (column - size / 2) / (FOCAL * size)
    along = (size / 2 - row) / (FOCAL * size)
    ray = FORWARD + across * RIGHT + along * UP
    reach = -EYE[1] / min(float(ray[1]), -1e-3)
    return float(EYE[0] + reach * ray[0]), float(EYE[2] + reach * ray[2])


@lru_cache(maxsize=8)
def rays(size: int, samples: int) -> Array:
    """Unit directions [3, G, G] through a grid of G = size * samples per side, sample centres."""
    grid = (np.arange(size * samples, dtype=np.float32) + 0.5) / (size * samples) - 0.5
    across, along = np.meshgrid(grid / FOCAL, -grid / FOCAL)
    directions = FORWARD[:, None, None] + across * RIGHT[:, None, None] + along * UP[:, None, None]
    unit: Array = (directions / np.linalg.norm(directions, axis=0)).astype(np.float32)
    unit.setflags(write=False)
    return unit
