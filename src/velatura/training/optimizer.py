"""The optimizer and its learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from velatura.recipe.training.optimizer import Optimizer
from velatura.training.muon import Muon

FUSED = ("cpu", "cuda")  # devices on which AdamW is one kernel


def make_optimizer(section: Optimizer, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The recipe's optimizer over named parameters. Biases, norms and other vectors get no weight decay."""
    fused = next(iter(parameters.values())).device.type in FUSED
    adamw: dict[str, Any] = {
        "betas": (section.betas[0], section.betas[1]),
        "eps": section.eps,
        "fused": fused,
    }
    if section.kind == "muon":
        return Muon(parameters, lr=section.learning_rate, weight_decay=section.weight_decay, adamw=adamw)
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": section.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=section.learning_rate, **adamw
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
