"""Optimizers that take one tensor after the other: every update is computed in float32, whatever is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from velatura.training.distribution.sharding import local
from velatura.training.optimizers.rounding import rounded

State = dict[str, Any]


class Rule(Protocol):
    """What one kind of optimizer does with one tensor."""

    def fresh(self, parameter: Tensor) -> State:
        """What is remembered of a tensor before its first update."""

    def direction(self, gradient: Tensor, state: State) -> Tensor:
        """Where to go, in units of the learning rate, for a float32 gradient; `state["step"]` counts from 1."""


class ByTensor(torch.optim.Optimizer):
    """weight <- (1 - rate decay) weight - rate direction, in float32; weights in bf16 are rounded stochastically.

    The draws of a rounding depend on the seed, the tensor's name and how many updates it had.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        rule: Rule,
        *,
        lr: float,
        weight_decay: float,
        seed: int,
    ) -> None:
        super().__init__(decayed(parameters, weight_decay), {"lr": lr})
        self._rule = rule
        self._seed = seed
        self._names = {parameter: name for name, parameter in parameters.items()}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["weight_decay"])

    def _update(self, parameter: nn.Parameter, rate: float, decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, **self._rule.fresh(parameter)}
        state["step"] += 1
        stored = local(parameter)
        weight = stored.float()  # itself where it is float32 already
        direction = self._rule.direction(local(parameter.grad).float(), state)  # type: ignore[arg-type]
        weight.mul_(1 - rate * decay).add_(direction, alpha=-rate)
        if weight is not stored:
            draw = f"rounding/{state['step']}/{self._names[parameter]}"
            stored.copy_(rounded(weight, self._seed, draw, like=parameter))


def decayed(parameters: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Groups of matrices and kernels, and of vectors, which get no weight decay.

    Weights that are shared out between processes are apart from those that are not: torch updates them apart.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in parameters.values():
        groups.setdefault((parameter.ndim < 2, isinstance(parameter, DTensor)), []).append(parameter)
    return [
        {"params": group, "weight_decay": 0.0 if is_vector else weight_decay}
        for (is_vector, _), group in sorted(groups.items(), key=lambda item: item[0])
    ]
