"""The exponential moving average of the trained values."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from torch import Tensor

from velatura.recipe.training import ema as section
from velatura.training.distribution.sharding import spread
from velatura.training.folder import OF_AVERAGE
from velatura.training.trainables import Trainables

Weights = Literal["raw", "average"]
Holding = Callable[[Weights], AbstractContextManager[None]]  # the model holds these weights within the block
LABELS: Mapping[Weights, str] = {"raw": "", "average": OF_AVERAGE}  # in names of files


def chosen(kept: section.Kept) -> tuple[Weights, ...]:
    """The weights that a key of the recipe names."""
    return ("raw", "average") if kept == "both" else (kept,)


def decay_at(recipe: section.Ema, step: int, steps: int) -> float:
    """Of the update after `step` of `steps`, counted from 1.

    With a strength s, d = s^(1 / updates) at each, so that s of the start is left after all of them.
    """
    if recipe.strength is not None:
        return float(recipe.strength ** (recipe.every / steps))
    if recipe.compat == "everydream2":
        return recipe.decay
    update = step // recipe.every
    return min(recipe.decay, (1 + update) / (10 + update))


class Ema:
    """average <- decay average + (1 - decay) value, every so many steps; in float32, on a device of its own choice."""

    def __init__(self, trainables: Trainables, recipe: section.Ema) -> None:
        self.trainables = trainables
        self.recipe = recipe
        self.device = torch.device("cpu") if recipe.device == "cpu" else None
        self.average = self._copies()

    @torch.no_grad()
    def update(self, step: int, steps: int) -> None:
        """Take in the values after optimizer step `step` (counted from 1) of `steps`, where an update is due."""
        if step % self.recipe.every:
            return
        values, share = self.trainables.values(), 1 - decay_at(self.recipe, step, steps)
        if self.device is None:
            own = [values[name].float() for name in self.average]  # themselves, where they are in float32
            torch._foreach_lerp_(list(self.average.values()), own, share)
            return
        for name, average in self.average.items():  # one by one: no second copy of all
            average.lerp_(values[name].to(self.device, torch.float32), share)

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Take over a saved average."""
        for name, value in self.average.items():
            value.copy_(spread(average[name], value))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model holds the averages; afterwards its own values again, bit for bit.

        The averages hold the values meanwhile, which takes no second copy of all; only those of narrow weights are
        copied, for averages would be rounded in their place.
        """
        values = self.trainables.values()
        own = {n: v.to(self.device, copy=True) for n, v in values.items() if v.dtype != torch.float32}
        self._exchange(self.average, without=own)
        try:
            yield
        finally:
            self._exchange(self.average | own, without=own)

    @torch.no_grad()
    def _exchange(self, shown: Mapping[str, Tensor], *, without: Container[str]) -> None:
        """Let the model hold what is `shown`, and averages what it held, but for some."""
        for name, parameter in self.trainables.parameters.items():
            held = None if name in without else parameter.detach().clone()
            parameter.copy_(shown[name])
            if held is not None:
                self.average[name].copy_(held)

    def _copies(self) -> dict[str, Tensor]:
        values = self.trainables.values()
        return {name: value.to(self.device, torch.float32, copy=True) for name, value in values.items()}
