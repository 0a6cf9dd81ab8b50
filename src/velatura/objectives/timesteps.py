"""Distributions of the noise level t of a training step; each is a pure function of a draw.

The shift is that of arXiv:2403.03206, eq. 23; a family's own shift by image size is `Schedule.shift`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shift(t: Tensor, factor: float) -> Tensor:
    """factor t / (1 + (factor - 1) t): moves mass towards noise for factor > 1; t in [0, 1]."""
    moved = factor * t
    return moved / (moved + (1 - t))  # exactly 0 and 1 at the ends


def logit_normal(normal: Tensor, scale: float) -> Tensor:
    """Sigmoid of a scaled normal."""
    return torch.sigmoid(scale * normal)
