"""Losses that jump: each item is compared with the items that were seen at about its noise level before."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from velatura.training.health.item_losses import ItemLoss, named

LEVELS = 10  # parts of t in [0, 1]: a loss at one noise level says little about another
WINDOW = 64  # losses that are remembered at each
ENOUGH = 16  # of them, before one can be told to be unusual
LIMIT = 6.0  # deviations of the logarithm above the median
LEAST_DEVIATION = 0.2  # of the logarithm, so that a spike is at least exp(6 * 0.2) = 3.3 times the median
QUIET = 100  # steps after a warning without another one


@dataclass(kw_only=True)
class SpikeWatch:
    """Tells when items' losses are far above what is usual at their noise level.

    The measure is a robust z-score of log(loss): distance from the median in units of 1.4826 times the median absolute
    deviation. It starts anew with each session of a run.
    """

    recent: list[deque[float]] = field(default_factory=lambda: [deque(maxlen=WINDOW) for _ in range(LEVELS)])
    quiet_until: int = 0

    def look(self, items: Sequence[ItemLoss], step: int) -> str | None:
        """Take in the losses of a step; a warning for the user where some are unusual."""
        spikes: list[tuple[float, ItemLoss]] = []
        for item in (
            item for item in items if item.value > 0
        ):  # 0: nothing of it counts, such as an empty mask
            known = self.recent[min(int((item.t or 0.0) * LEVELS), LEVELS - 1)]
            value = math.log(item.value)
            if (times := _above(value, known)) is not None:
                spikes.append((times, item))
            known.append(value)
        if not spikes or step < self.quiet_until:
            return None
        self.quiet_until = step + QUIET
        worst = max(times for times, _ in spikes)
        return (
            f"step {step}: the loss jumped, to {worst:.0f} times what is usual at its noise level, for "
            f"{named([item for _, item in spikes])}. Look at these images and captions; where it happens again with "
            "others, lower the learning rate"
        )


def _above(value: float, known: Sequence[float]) -> float | None:
    """How many times the usual loss a log loss is, where it is a spike."""
    if len(known) < ENOUGH:
        return None
    middle = statistics.median(known)
    deviation = 1.4826 * statistics.median(abs(other - middle) for other in known)
    distance = value - middle
    return math.exp(distance) if distance > LIMIT * max(deviation, LEAST_DEVIATION) else None
