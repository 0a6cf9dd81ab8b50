"""Batches in several passes, where the recipe says so or memory ran out: the same mathematics.

Losses are divided by the step's total weight and random numbers belong to an item's slot, so the parts of a
micro-batch give what the whole would have given, but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from velatura.events import BatchSplit, Events
from velatura.interfaces import Batch
from velatura.plural import counted


@dataclass(kw_only=True)
class Splitter:
    """Splits micro-batches of more than `limit` items, and, where it `shrinks`, of sizes that once did not fit.

    `most`: items of such sizes, for the rest of the run.
    """

    events: Events
    scale: int  # pixels per latent pixel
    limit: int | None = None
    shrinks: bool = True
    most: dict[str, int] = field(default_factory=dict)

    def fitted(self, batches: Sequence[Batch]) -> list[Batch]:
        """The micro-batches, those too large in parts of about equal size, in the same order."""
        return [part for batch in batches for part in self._parts(batch)]

    def shrink(self, batch: Batch, step: int) -> bool:
        """Let batches of this one's size be half of it from now on; False where that cannot be, or is not wanted."""
        items = len(batch.names)
        if items == 1 or not self.shrinks:
            return False
        size = size_of(batch, self.scale)
        self.most[size] = most = -(-items // 2)
        self.events(BatchSplit(step=step, size=size, items=items, most=most))
        self.events.warn(
            f"step {step}: memory ran out with {counted(items, 'image')} of {size} at once. The step is repeated with "
            f"{most} at once, which stays so for this size; the result is the same, and it takes a little longer"
        )
        return True

    def _parts(self, batch: Batch) -> list[Batch]:
        items = len(batch.names)
        learned = self.most.get(size_of(batch, self.scale), items) if self.shrinks else items
        most = min(self.limit or items, learned)
        count = passes(items, most)
        edges = [items * number // count for number in range(count + 1)]
        if count == 1:
            return [batch]
        return [batch.select(range(*edge)) for edge in pairwise(edges)]


def passes(items: int, most: int | None) -> int:
    """In how many forward passes a batch is computed that may have so many items at most in each."""
    return 1 if most is None else -(-items // most)


def size_of(batch: Batch, scale: int) -> str:
    """`1024x768`: width and height of the batch's images; `scale`: pixels per latent pixel."""
    if batch.images is not None:
        height, width = batch.images.shape[2:]
    else:
        assert batch.latents is not None
        height, width = (edge * scale for edge in batch.latents.shape[2:])
    return f"{width}x{height}"
