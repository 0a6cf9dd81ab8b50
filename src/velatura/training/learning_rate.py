"""The learning rate over time."""

from __future__ import annotations

import math

import torch

from velatura.recipe.training.optimizer import Optimizer


def learning_rate(section: Optimizer, step: int, steps: int) -> float:
    """Of optimizer step `step` (counted from 1) of `steps`: linear warm-up, then by the recipe's schedule."""
    if step <= section.warmup_steps:
        return section.learning_rate * step / section.warmup_steps
    progress = (step - section.warmup_steps - 1) / max(1, steps - section.warmup_steps)
    share = section.min_share + (1 - section.min_share) * _height(section, progress)
    return section.learning_rate * share


def _height(section: Optimizer, progress: float) -> float:
    """1 at progress 0, falling towards 0 at 1."""
    match section.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - progress
        case "polynomial":
            return float((1 - progress) ** section.power)
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "cosine_with_restarts":
            return 0.5 * (1 + math.cos(math.pi * (section.cycles * progress % 1)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
