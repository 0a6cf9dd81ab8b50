"""A phase of a run, as a plan tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from velatura.planning.tracking import Bytes, Work


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The most that a part of a phase holds: the forward pass of a block, its backward pass, the update."""

    kind: str  # as in the tracker's labels
    held: Bytes


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of a run: bytes at its peak by what they are for, and its work.

    `moments`, where they are known: which of them is the highest depends on what is not on the device.
    """

    name: str
    what: str  # "1024x1024 x 1"
    peak: Bytes
    work: Work
    moments: tuple[Moment, ...] = ()
    kept: int = 0  # bytes that wait for the backward pass when it begins
    away: int = 0  # bytes that wait for it in the machine's memory
    per_block: tuple[int, ...] = ()  # of them, those of each kind of block
    inputs: tuple[int, ...] = ()  # of each kind of block, which `memory.offload_activations` takes away

    def holding(self, held: Callable[[Bytes], Bytes]) -> Phase:
        """The phase where other bytes are held at each moment; the peak is the highest of them then."""
        moments = tuple(replace(moment, held=held(moment.held)) for moment in self.moments)
        return replace(self, moments=moments, peak=highest(moments) if moments else held(self.peak))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Images of one size in a forward pass."""

    width: int
    height: int
    count: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height} x {self.count}"


def highest(moments: tuple[Moment, ...]) -> Bytes:
    """What is held at the highest of some moments."""
    return max((moment.held for moment in moments), key=lambda held: held.total)
