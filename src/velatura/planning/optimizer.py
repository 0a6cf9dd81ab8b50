"""What an optimizer holds, also one of another package, whose code cannot be followed without values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from velatura.planning.replay import VALUELESS
from velatura.recipe.training.optimizer import Optimizer
from velatura.training.optimizer import make_optimizer
from velatura.training.optimizers.by_path import bytes_per_value
from velatura.training.optimizers.by_tensor import Move


class StandIn(torch.optim.Optimizer):
    """Holds so many bytes for each trained value, and changes none."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], held: float) -> None:
        super().__init__(list(parameters.values()), {"lr": 0.0})
        self._held = held

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Hold what the first step makes."""
        for parameter in self.param_groups[0]["params"]:
            if not self.state[parameter]:
                size = round(self._held * parameter.numel())
                self.state[parameter]["held"] = torch.empty(size, dtype=torch.uint8)


def stepped_optimizer(
    section: Optimizer, parameters: Mapping[str, nn.Parameter], compiled: Callable[[Move], Move] | None = None
) -> torch.optim.Optimizer:
    """The recipe's optimizer over parameters without values, after a step; `compiled`: see `make_optimizer`.

    Raises RecipeError.
    """
    held = bytes_per_value(section) if section.by_path else None
    with VALUELESS:
        optimizer = (
            make_optimizer(section, parameters, compiled=compiled)
            if held is None
            else StandIn(parameters, held)
        )
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return optimizer
