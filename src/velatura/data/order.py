"""The order of training: a pure function of (seed, step), so a resumed run needs only its step number."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from velatura.data.buckets import Bucket
from velatura.data.plan import Entry
from velatura.draws import permutation

_EPOCHS_KEPT = 3  # a step may reach over an epoch's end, and the loader looks ahead


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """An entry at its place in a step: `slot` is its position in the global batch, over all micro-steps."""

    entry: Entry
    slot: int


class Plan(Protocol):
    """Anything that says what a step eats."""

    @property
    def steps(self) -> int | None:
        """How many steps there are; None when there is no end."""
        ...

    def micro_batches(self, step: int) -> list[list[Placed]]:
        """The micro-batches of a step; steps count from 0."""
        ...


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """What an epoch does, for people."""

    uses: Mapping[str, int]  # item name -> uses per epoch
    buckets: Mapping[Bucket, int]  # entries per bucket, most first
    batches: int  # micro-batches per epoch
    small_batches: int  # of these, with fewer entries than the batch size
    steps: float  # optimizer steps per epoch


class BatchPlan:
    """Endless shuffled epochs of micro-batches, each of one bucket.

    An epoch holds every entry exactly once: entries are permuted, cut per bucket into micro-batches (the last
    of a bucket may be small: nothing is dropped or doubled), and the micro-batches permuted. A step takes the
    next `accumulate` micro-batches, running over the ends of epochs.
    """

    def __init__(
        self, entries: Sequence[Entry], *, batch_size: int, accumulate: int = 1, seed: int = 0
    ) -> None:
        if not entries or batch_size < 1 or accumulate < 1:
            raise ValueError(f"need entries and sizes >= 1; got {len(entries)}, {batch_size}, {accumulate}")
        self.entries = tuple(entries)
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.seed = seed
        self.histogram = Counter(entry.bucket for entry in self.entries)
        self.batches_per_epoch = sum(-(-count // batch_size) for count in self.histogram.values())
        self._epochs: OrderedDict[int, list[list[Entry]]] = OrderedDict()

    @property
    def steps(self) -> None:
        """Epochs go on for ever."""

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which every entry is used once."""
        return self.batches_per_epoch / self.accumulate

    def epoch_of(self, step: int) -> int:
        """The epoch in which a step begins, from 0."""
        return step * self.accumulate // self.batches_per_epoch

    def micro_batches(self, step: int) -> list[list[Placed]]:
        """The `accumulate` micro-batches of a step; steps count from 0. Costs one shuffle per new epoch."""
        if step < 0:
            raise ValueError(f"steps count from 0; got {step}")
        batches = []
        slot = 0
        for number in range(step * self.accumulate, (step + 1) * self.accumulate):
            epoch, position = divmod(number, self.batches_per_epoch)
            batch = self._epoch(epoch)[position]
            batches.append([Placed(entry=entry, slot=slot + i) for i, entry in enumerate(batch)])
            slot += len(batch)
        return batches

    def report(self) -> PlanReport:
        """Uses of each item, bucket sizes, steps per epoch."""
        return PlanReport(
            uses=Counter(entry.item.name for entry in self.entries),
            buckets=dict(self.histogram.most_common()),
            batches=self.batches_per_epoch,
            small_batches=sum(1 for count in self.histogram.values() if count % self.batch_size),
            steps=self.steps_per_epoch,
        )

    def _epoch(self, epoch: int) -> list[list[Entry]]:
        if epoch not in self._epochs:
            self._epochs[epoch] = self._shuffle(epoch)
            while len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _shuffle(self, epoch: int) -> list[list[Entry]]:
        open_batches: dict[Bucket, list[Entry]] = {}
        batches: list[list[Entry]] = []
        for index in permutation(self.seed, "order", epoch, len(self.entries)):
            entry = self.entries[index]
            batch = open_batches.get(entry.bucket)
            if batch is None or len(batch) == self.batch_size:
                batch = open_batches[entry.bucket] = []
                batches.append(batch)
            batch.append(entry)
        return [batches[i] for i in permutation(self.seed, "order of batches", epoch, len(batches))]


class OrderedPlan:
    """Every entry once, in order, grouped by bucket: for validation. Step k is the k-th micro-batch."""

    def __init__(self, entries: Sequence[Entry], *, batch_size: int) -> None:
        groups: dict[Bucket, list[Entry]] = {}
        for entry in entries:
            groups.setdefault(entry.bucket, []).append(entry)
        chunks = [
            group[i : i + batch_size] for group in groups.values() for i in range(0, len(group), batch_size)
        ]
        self._batches: list[list[Placed]] = []
        slot = 0
        for chunk in chunks:
            self._batches.append([Placed(entry=entry, slot=slot + i) for i, entry in enumerate(chunk)])
            slot += len(chunk)

    @property
    def steps(self) -> int:
        """Number of micro-batches."""
        return len(self._batches)

    def micro_batches(self, step: int) -> list[list[Placed]]:
        """One micro-batch; its slots count through the whole plan, so that fixed noise is one per entry."""
        return [self._batches[step]]
