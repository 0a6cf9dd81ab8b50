"""A phase of a run, as a plan tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from velatura.planning.tracking import Bytes, Work


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The most that a part of a phase holds: the forward pass of a block, its backward pass, the update."""

    kind: str  # as in the tracker's labels
    held: Bytes


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of a run: what it holds at its moments, at least one, and its work.

    Which moment is the highest depends on what is not on the device.
    """

    name: str
    what: str  # "1024x1024 x 1"
    moments: tuple[Moment, ...]
    work: Work
    update: Work = field(default_factory=Work)  # of it, that of the optimizer
    kept: int = 0  # bytes that wait for the backward pass when it begins
    away: int = 0  # bytes that wait for it in the machine's memory
    per_block: tuple[int, ...] = ()  # of them, those of each kind of block
    inputs: tuple[int, ...] = ()  # of each kind of block, which `memory.offload_activations` takes away

    @property
    def peak(self) -> Bytes:
        """What is held at the highest of the moments."""
        return highest(self.moments)

    def holding(self, held: Callable[[Bytes], Bytes]) -> Phase:
        """The phase where other bytes are held at each moment."""
        return replace(self, moments=tuple(replace(one, held=held(one.held)) for one in self.moments))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Images of one size in a forward pass."""

    width: int
    height: int
    count: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height} x {self.count}"


def at_once(peak: Bytes) -> tuple[Moment, ...]:
    """The moments of a phase that is known by its peak alone."""
    return (Moment(kind="peak", held=peak),)


def highest(moments: tuple[Moment, ...]) -> Bytes:
    """What is held at the highest of some moments."""
    return max((moment.held for moment in moments), key=lambda held: held.total)
