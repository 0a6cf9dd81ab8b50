"""A device that is not there: memory that is poisoned until a copy has arrived, and a clock for copies and kernels."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Moment:
    """A time, and what must be done before it has come."""

    at: float
    source: Tensor | None = None
    slot: Tensor | None = None


@dataclass
class SimulatedLink:
    """Copies at `bandwidth` bytes a second, beside a computation that `compute` moves on."""

    bandwidth: float
    computed: float = 0.0  # the computation's clock, seconds
    copied: float = 0.0  # the copies' clock
    stalled: float = 0.0  # seconds in which the computation waited
    log: list[tuple[float, float]] = field(default_factory=list)  # begin and end of every copy

    def host(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def send(self, source: Tensor, slot: Tensor, after: Moment | None) -> Moment:
        """The slot holds NaNs from here on, until someone waits for the copy."""
        begin = max(self.copied, after.at if after else 0.0, 0.0)
        self.copied = begin + source.nbytes / self.bandwidth
        self.log.append((begin, self.copied))
        slot.fill_(0xFF)
        return Moment(self.copied, source, slot)

    def wait(self, moment: Moment) -> None:
        if moment.source is not None and moment.slot is not None:
            moment.slot.copy_(moment.source)
            moment.source = moment.slot = None
        self.stalled += max(0.0, moment.at - self.computed)
        self.computed = max(self.computed, moment.at)

    def mark(self) -> Moment:
        return Moment(self.computed)

    def compute(self, seconds: float) -> None:
        self.computed += seconds
