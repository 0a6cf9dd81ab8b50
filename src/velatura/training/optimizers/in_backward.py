"""Updates within the backward pass: a gradient is used and freed as soon as it is whole."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Make = Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer]


class GradientNotFinite(ArithmeticError):
    """A gradient that is not finite, of the parameter `name`, when `updated` others had had their update already."""

    def __init__(self, name: str, updated: int) -> None:
        super().__init__(name)
        self.name = name
        self.updated = updated


class InBackward(torch.optim.Optimizer):
    """An optimizer for each parameter alone, made by `make`; backward passes run them.

    A backward pass raises GradientNotFinite, before that parameter is updated. Every parameter may get its gradient
    once in a step, from one backward pass.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], make: Make) -> None:
        self._alone = {parameter: make({name: parameter}) for name, parameter in parameters.items()}
        self._names = {parameter: name for name, parameter in parameters.items()}
        groups = [group for one in self._alone.values() for group in one.param_groups]
        super().__init__(groups, {})  # the same groups: a learning rate that is set here counts there
        update = weakref.WeakMethod(self._update)  # torch keeps hooks where no garbage collector sees them
        for parameter, one in self._alone.items():
            self.state[parameter] = one.state[parameter]
            parameter.register_post_accumulate_grad_hook(lambda ready: _run(update, ready))
        self._updated = 0
        self._square = 0.0

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply the gradients that are there: none after a backward pass."""
        for one in self._alone.values():
            one.step()

    def take_norm(self) -> float:
        """The norm of all gradients since it was last asked for."""
        norm = math.sqrt(self._square)
        self._updated, self._square = 0, 0.0
        return norm

    def _update(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        norm = float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float32))
        if not math.isfinite(norm):
            raise GradientNotFinite(self._names[parameter], self._updated)  # type: ignore[index]
        self._square += norm**2
        self._updated += 1
        self._alone[parameter].step()  # type: ignore[index]
        parameter.grad = None


def _run(update: weakref.WeakMethod[Any], ready: Tensor) -> None:
    if (found := update()) is not None:
        found(ready)


def in_backward(optimizer: Any) -> InBackward | None:
    """The optimizer, where it is one that makes its updates within the backward pass."""
    return optimizer if isinstance(optimizer, InBackward) else None
