"""Updates within the backward pass: a gradient is used and freed as soon as it is whole."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from velatura.errors import RecipeError
from velatura.training.optimizers.apart import Apart, Make
from velatura.training.optimizers.visits import Visits


class GradientNotFinite(ArithmeticError):
    """A gradient that is not finite, of the parameter `name`, when `updated` others had had their update already."""

    def __init__(self, name: str, updated: int) -> None:
        super().__init__(name)
        self.name = name
        self.updated = updated


class InBackward(Apart):
    """Backward passes make the updates.

    A backward pass raises GradientNotFinite, before that parameter is updated. Every parameter may get its gradient
    once in a step, from one backward pass, and RecipeError is raised where it gets another.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], make: Make, visits: Visits | None = None
    ) -> None:
        super().__init__(parameters, make, visits)
        update = weakref.WeakMethod(self._update)  # torch keeps hooks where no garbage collector sees them
        for parameter in parameters.values():
            parameter.register_post_accumulate_grad_hook(lambda ready: _run(update, ready))
        self._square = 0.0
        self._updated: dict[nn.Parameter, None] = {}  # in this order
        self._order: list[nn.Parameter] = []  # in which the last backward pass updated them

    def take_norm(self) -> float:
        """The norm of all gradients since it was last asked for, once all updates are made."""
        if self.visits is not None:
            self.visits.finish()
        norm = math.sqrt(self._square)
        self._order, self._square = list(self._updated), 0.0
        self._updated.clear()
        return norm

    def _update(self, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        norm = float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float32))
        if not math.isfinite(norm):
            raise GradientNotFinite(self._names[parameter], len(self._updated))
        self._square += norm**2
        if parameter in self._updated:
            raise RecipeError(
                f"optimizer.fused_backward = true: {self._names[parameter]} got a second gradient in a step, after its "
                "update. Leave it out."
            )
        self._updated[parameter] = None
        self.update(parameter, islice(self._order, len(self._updated), None))
        parameter.grad = None


def _run(update: weakref.WeakMethod[Any], ready: Tensor) -> None:
    if (found := update()) is not None:
        found(ready)


def in_backward(optimizer: Any) -> InBackward | None:
    """The optimizer, where it is one that makes its updates within the backward pass."""
    return optimizer if isinstance(optimizer, InBackward) else None
