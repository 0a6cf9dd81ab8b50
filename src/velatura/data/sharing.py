"""What one of several processes does of the work that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Share:
    """The share of process `number` (counted from 0) of `of`."""

    number: int = 0
    of: int = 1

    def run_of(self, things: Sequence[T]) -> Sequence[T]:
        """A run of neighbours; shares differ by one thing at most, and the first processes have no fewer."""
        start, end = (-(-number * len(things) // self.of) for number in (self.number, self.number + 1))
        return things[start:end]

    def every_of(self, things: Sequence[T]) -> Sequence[T]:
        """Every `of`-th thing, so that neighbours of one kind are shared evenly."""
        return things[self.number :: self.of]


ALL = Share()
