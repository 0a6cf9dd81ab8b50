"""The exponential moving average of the trained values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from velatura.training.trainables import Trainables

Shown = Callable[[], AbstractContextManager[None]]  # the weights that are saved and shown, while a block runs


class Ema:
    """average <- decay average + (1 - decay) value after each step; decay ramps up as (1 + step) / (10 + step)."""

    def __init__(self, trainables: Trainables, decay: float) -> None:
        self.trainables = trainables
        self.decay = decay
        self.average = {name: value.clone() for name, value in trainables.values().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the values after optimizer step `step` (counted from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        values = self.trainables.values()
        torch._foreach_lerp_(list(self.average.values()), [values[name] for name in self.average], 1 - decay)

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Take over a saved average."""
        for name, value in self.average.items():
            value.copy_(average[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model holds the averages; afterwards its own values again, bit for bit."""
        own = {name: value.clone() for name, value in self.trainables.values().items()}
        self.trainables.set_values(self.average)
        try:
            yield
        finally:
            self.trainables.set_values(own)
