"""The recipe's optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from velatura.recipe.training.optimizer import Optimizer
from velatura.training.optimizers.adafactor import Adafactor
from velatura.training.optimizers.adam import Adam, Adam8bit
from velatura.training.optimizers.apart import Apart
from velatura.training.optimizers.by_path import make_by_path, optimizer_class
from velatura.training.optimizers.by_tensor import ByTensor, Move, Rule, decayed, move
from velatura.training.optimizers.in_backward import InBackward
from velatura.training.optimizers.muon import Muon
from velatura.training.optimizers.visits import Visits

FUSED = ("cpu", "cuda")  # devices on which AdamW is one kernel
_CLASSES: dict[str, type] = {
    "adamw": torch.optim.AdamW,
    "adamw8bit": Adam8bit,
    "adafactor": Adafactor,
    "muon": Muon,
}


def make_optimizer(
    section: Optimizer,
    parameters: Mapping[str, nn.Parameter],
    *,
    seed: int = 0,
    visits: Visits | None = None,
    compiled: Callable[[Move], Move] | None = None,
) -> torch.optim.Optimizer:
    """Over named parameters, in float32 or bf16. Biases, norms and other vectors get no weight decay.

    `seed`: of the roundings of bf16 weights. `visits`: for what lives in the machine's memory between updates.
    `compiled`: the compiler of updates that have no kernel in torch (see `updated_by_tensor`). Raises RecipeError for a
    class by import path that cannot be used.
    """
    device = next(iter(parameters.values())).device if visits is None else visits.device
    fast = None if compiled is None else compiled(move)

    def make(named: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        return _make(section, named, seed, device, fast)

    if section.fused_backward:
        return InBackward(parameters, make, visits)
    return make(parameters) if visits is None else Apart(parameters, make, visits)


def optimizer_name(section: Optimizer) -> str:
    """The class and what it is given, as sd-scripts writes it: `torch.optim.adamw.AdamW(weight_decay=0.01,...)`."""
    made = optimizer_class(section.kind) if section.by_path else _CLASSES[section.kind]
    options: dict[str, object] = {"weight_decay": section.weight_decay}
    if section.by_path:
        options = dict(section.options)
    elif section.kind != "adafactor":
        options |= {"betas": tuple(section.betas), "eps": section.eps}
    settings = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{made.__module__}.{made.__name__}({settings})"


def updated_by_tensor(section: Optimizer, parameters: Mapping[str, nn.Parameter]) -> bool:
    """Whether updates are made by `ByTensor`, and can be compiled: not those that torch has a kernel for."""
    return not section.by_path and section.kind != "muon" and _rule(section, parameters) is not None


def _make(
    section: Optimizer,
    parameters: Mapping[str, nn.Parameter],
    seed: int,
    device: torch.device,
    fast: Move | None,
) -> torch.optim.Optimizer:
    rate, decay = section.learning_rate, section.weight_decay
    if section.by_path:
        return make_by_path(section, parameters)
    if section.kind == "muon":
        return Muon(parameters, lr=rate, weight_decay=decay, adamw=_adamw(section, device))
    if (rule := _rule(section, parameters)) is not None:
        return ByTensor(parameters, rule, lr=rate, weight_decay=decay, seed=seed, fast=fast)
    return torch.optim.AdamW(decayed(parameters, decay), lr=rate, **_adamw(section, device))


def _rule(section: Optimizer, parameters: Mapping[str, nn.Parameter]) -> Rule | None:
    """None for AdamW over float32 weights, for which torch has a kernel."""
    betas = section.betas[0], section.betas[1]
    if section.kind == "adafactor":
        return Adafactor()
    if section.kind == "adamw8bit":
        return Adam8bit(betas, section.eps)
    narrow = any(parameter.dtype == torch.bfloat16 for parameter in parameters.values())
    return Adam(betas, section.eps) if narrow else None


def _adamw(section: Optimizer, device: torch.device) -> dict[str, Any]:
    fused = device.type in FUSED
    return {"betas": (section.betas[0], section.betas[1]), "eps": section.eps, "fused": fused}
