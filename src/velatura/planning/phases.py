"""A phase of a run, as a plan tells it."""

from __future__ import annotations

from dataclasses import dataclass

from velatura.planning.tracking import Bytes, Work


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of a run: bytes at its peak by what they are for, and its work."""

    name: str
    what: str  # "1024x1024 x 1"
    peak: Bytes
    work: Work
    kept: int = 0  # bytes that wait for the backward pass when it begins
    away: int = 0  # bytes that wait for it in the machine's memory
    per_block: tuple[int, ...] = ()  # of them, those of each kind of block


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Images of one size in a forward pass."""

    width: int
    height: int
    count: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height} x {self.count}"
