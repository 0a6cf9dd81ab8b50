"""Loss weights as functions of the noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def flow_weight(t: Tensor, kind: str) -> Tensor:
    """Weight of a flow loss at t: 'none' 1; 'sigma_sqrt' t^-2; 'cosmap' 2 / (pi (1 - 2t + 2t^2))."""
    if kind == "sigma_sqrt":
        return t.clamp_min(1e-3) ** -2
    if kind == "cosmap":
        return 2 / (math.pi * (1 - 2 * t + 2 * t**2))
    return torch.ones_like(t)


def min_snr(alpha: Tensor, sigma: Tensor, gamma: float, prediction: str) -> Tensor:
    """min(snr, gamma) / snr for noise prediction, / (snr + 1) for v (arXiv:2303.09556); snr = (alpha / sigma)^2."""
    snr = (alpha / sigma) ** 2
    if prediction == "v":
        return snr.clamp_max(gamma) / (snr + 1)
    return (gamma / snr).clamp_max(1)  # 1 also where there is no signal at all
