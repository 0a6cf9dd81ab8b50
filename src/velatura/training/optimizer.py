"""AdamW and the learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from velatura.recipe.training.optimizer import Optimizer


def make_optimizer(section: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW in one fused kernel. Biases, norms and other vectors get no weight decay."""
    parameters = list(parameters)
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": section.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=section.learning_rate,
        betas=(section.betas[0], section.betas[1]),
        eps=section.eps,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )


def learning_rate(section: Optimizer, step: int, steps: int) -> float:
    """Of optimizer step `step` (counted from 1) of `steps`: linear warm-up, then constant or a half cosine."""
    if step <= section.warmup_steps:
        return section.learning_rate * step / section.warmup_steps
    if section.schedule == "constant":
        return section.learning_rate
    progress = (step - section.warmup_steps - 1) / max(1, steps - section.warmup_steps)
    share = section.min_share + (1 - section.min_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return section.learning_rate * share


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
