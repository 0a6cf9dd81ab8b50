"""A device that is not there: memory that is poisoned until a copy has arrived, and a clock for copies and kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Moment:
    """A time, and the copy that must be done before it has come."""

    at: float
    source: Tensor | None = None
    target: Tensor | None = None

    def come(self) -> None:
        """What is read is what lies there now: nothing may have been written over it."""
        if self.source is not None and self.target is not None:
            self.target.copy_(self.source)
            self.source = self.target = None


@dataclass
class SimulatedLink:
    """Copies at `bandwidth` bytes a second in each direction, beside a computation that `compute` moves on."""

    bandwidth: float
    computed: float = 0.0  # the computation's clock, seconds
    copied: float = 0.0  # the clock of copies to the device
    returned: float = 0.0  # that of copies to the host
    stalled: float = 0.0  # seconds in which the computation waited
    log: list[tuple[float, float]] = field(default_factory=list)  # begin and end of every copy to the device

    def host(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def send(self, source: Tensor, slot: Tensor, *after: Moment | None) -> Moment:
        """The slot holds NaNs from here on, until someone waits for the copy."""
        for moment in after:
            if moment is not None:
                moment.come()
        begin = max(self.copied, *(moment.at if moment else 0.0 for moment in after), 0.0)
        self.copied = begin + source.nbytes / self.bandwidth
        self.log.append((begin, self.copied))
        poison(slot)
        return Moment(self.copied, source, slot)

    def take(self, source: Tensor, home: Tensor) -> Moment:
        """The host holds NaNs from here on, until someone waits for the copy."""
        begin = max(self.returned, self.computed)
        self.returned = begin + source.nbytes / self.bandwidth
        poison(home)
        return Moment(self.returned, source, home)

    def wait(self, moment: Moment | None) -> None:
        if moment is None:
            return
        moment.come()
        self.stalled += max(0.0, moment.at - self.computed)
        self.computed = max(self.computed, moment.at)

    def meet(self, moment: Moment | None) -> None:
        self.wait(moment)

    def mark(self) -> Moment:
        return Moment(self.computed)

    def compute(self, seconds: float) -> None:
        self.computed += seconds


class Timed(torch.autograd.Function):
    """Passes on its input; its backward wants it again, as that of a real block would, and then takes its time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, then: Callable[[], None]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.then = then
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        _ = ctx.saved_tensors
        ctx.then()
        return gradient, None


def poison(tensor: Tensor) -> None:
    tensor.view(-1).view(torch.uint8).fill_(0xFF)
