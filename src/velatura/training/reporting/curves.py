"""Losses as curves: smoothed, thinned for a page, and the frame that they are drawn in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

Point = tuple[int, float]  # step, loss

POINTS = 1000  # of a curve; more than a screen shows would only make a page slow
WORTH = 1.5  # times the height of what follows: so much more is drawn for a fall at the beginning


def window_of(points: Sequence[Point]) -> int:
    """Over so many values a curve is smoothed: about 5 % of it."""
    return max(1, len(points) // 20)


def running_means(points: Sequence[Point], window: int) -> list[Point]:
    """Each point with the mean of the last `window` values."""
    sums = [0.0, *accumulate(loss for _, loss in points)]
    starts = [max(0, end - window) for end in range(1, len(sums))]
    return [
        (step, (sums[end] - sums[start]) / (end - start))
        for (step, _), end, start in zip(points, range(1, len(sums)), starts, strict=True)
    ]


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most about POINTS of them, the last one included."""
    return [*points[: -1 : -(-len(points) // POINTS)], points[-1]] if points else []


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The steps and losses between which curves are drawn."""

    left: int
    right: int
    low: float
    high: float

    def across(self, step: float) -> float:
        """Where a step lies from left (0) to right (1)."""
        return (step - self.left) / max(self.right - self.left, 1)

    def up(self, loss: float) -> float:
        """Where a loss lies from the bottom (0) to the top (1); what is above lies at the top."""
        return min(1.0, (loss - self.low) / max(self.high - self.low, 1e-12))


def frame_of(curves: Iterable[Sequence[Point]]) -> Frame:
    """The frame of some curves, none of them empty, whose first tenths do not set its height where they are far above.

    A deep fall at the beginning of a training would flatten all that follows.
    """
    steps: list[int] = []
    losses: list[float] = []
    later: list[float] = []
    for points in curves:
        steps += [points[0][0], points[-1][0]]
        losses += [loss for _, loss in points]
        later += [loss for _, loss in points[len(points) // 10 :]]
    low, high, highest = min(losses), max(later), max(losses)
    if highest - low <= WORTH * (high - low):
        high = highest
    return Frame(left=min(steps), right=max(steps), low=low, high=high)
