"""The order of training: a pure function of (seed, step), so a resumed run needs only its step number."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from velatura.data.buckets import Bucket
from velatura.data.plan import Entry
from velatura.draws import permutation

_EPOCHS_KEPT = 3  # a step may reach over an epoch's end, and the loader looks ahead


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """An entry at its place in a step: `slot` is its position in the global batch, over all micro-steps."""

    entry: Entry
    slot: int
    epoch: int = 0


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

    uses: Mapping[str, float]  # item name -> uses per epoch, on average
    buckets: Mapping[Bucket, int]  # entries per bucket, most first
    batches: int  # micro-batches per epoch
    small_batches: int  # of these, with fewer entries than the batch size
    steps: float  # optimizer steps per epoch


class BatchPlan:
    """Endless shuffled epochs of micro-batches, each of one lane (one size, one group).

    An epoch holds every entry exactly once (entries of a `share` below 1 in that share of the epochs): entries are
    permuted, cut per lane into micro-batches (the last of a lane may be small: nothing is dropped or doubled), and
    the micro-batches permuted. A step takes the next `accumulate` micro-batches, running over the ends of epochs.
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
        self._lanes: dict[object, list[int]] = {}
        for index, entry in enumerate(self.entries):
            self._lanes.setdefault(entry.lane, []).append(index)
        self._whole = all(entry.share >= 1 for entry in self.entries)
        self._phases: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._starts = [0]  # number of the first micro-batch of each epoch, as far as it is known
        self._epochs: OrderedDict[int, list[list[Entry]]] = OrderedDict()

    @property
    def steps(self) -> None:
        """Epochs go on for ever."""

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches of the first epoch; others have as many, give or take a few where repeats are fractions."""
        return self._batches_of(0)

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which every entry is used once."""
        return self.batches_per_epoch / self.accumulate

    def epoch_of(self, step: int) -> int:
        """The epoch in which a step begins, from 0."""
        return self._place(step * self.accumulate)[0]

    def micro_batches(self, step: int) -> list[list[Placed]]:
        """The `accumulate` micro-batches of a step; steps count from 0. Costs one shuffle per new epoch."""
        if step < 0:
            raise ValueError(f"steps count from 0; got {step}")
        batches = []
        slot = 0
        for number in range(step * self.accumulate, (step + 1) * self.accumulate):
            epoch, position = self._place(number)
            batch = self._epoch(epoch)[position]
            batches.append([Placed(entry=e, slot=slot + i, epoch=epoch) for i, e in enumerate(batch)])
            slot += len(batch)
        return batches

    def report(self) -> PlanReport:
        """Uses of each item, bucket sizes, steps per epoch."""
        uses: dict[str, float] = {}
        for entry in self.entries:
            uses[entry.item.name] = uses.get(entry.item.name, 0) + entry.share
        return PlanReport(
            uses=uses,
            buckets=dict(self.histogram.most_common()),
            batches=self.batches_per_epoch,
            small_batches=sum(1 for lane in self._lanes.values() if len(lane) % self._size(lane[0])),
            steps=self.steps_per_epoch,
        )

    def _place(self, number: int) -> tuple[int, int]:
        """The epoch of the micro-batch `number`, and its position there."""
        if self._whole:
            return divmod(number, self.batches_per_epoch)
        while self._starts[-1] <= number:
            self._starts.append(self._starts[-1] + self._batches_of(len(self._starts) - 1))
        epoch = bisect_right(self._starts, number) - 1
        return epoch, number - self._starts[epoch]

    def _size(self, index: int) -> int:
        return self.entries[index].batch_size or self.batch_size

    def _batches_of(self, epoch: int) -> int:
        if self._whole:
            return sum(-(-len(lane) // self._size(lane[0])) for lane in self._lanes.values())
        used = self._used(epoch)
        return sum(-(-int(used[lane].sum()) // self._size(lane[0])) for lane in self._lanes.values())

    def _used(self, epoch: int) -> NDArray[np.bool_]:
        """Which entries an epoch uses. One of share 1/3 is used in every third epoch; phases are spread evenly."""
        if self._phases is None:
            shares = np.array([entry.share for entry in self.entries])
            order = np.array(permutation(self.seed, "phase", 0, len(shares)))
            self._phases = shares, (order + 0.5) / len(shares)
        shares, phases = self._phases
        return np.floor((epoch + 1) * shares + phases) > np.floor(epoch * shares + phases)

    def _epoch(self, epoch: int) -> list[list[Entry]]:
        if epoch not in self._epochs:
            self._epochs[epoch] = self._shuffle(epoch)
            while len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _shuffle(self, epoch: int) -> list[list[Entry]]:
        used = None if self._whole else self._used(epoch)
        open_batches: dict[object, list[Entry]] = {}
        batches: list[list[Entry]] = []
        for index in permutation(self.seed, "order", epoch, len(self.entries)):
            if used is not None and not used[index]:
                continue
            entry = self.entries[index]
            batch = open_batches.get(entry.lane)
            if batch is None or len(batch) == self._size(index):
                batch = open_batches[entry.lane] = []
                batches.append(batch)
            batch.append(entry)
        return [batches[i] for i in permutation(self.seed, "order of batches", epoch, len(batches))]


class OrderedPlan:
    """Every entry once, in order, grouped by bucket: for validation. Step k is the k-th micro-batch."""

    def __init__(self, entries: Sequence[Entry], *, batch_size: int) -> None:
        groups: dict[object, list[Entry]] = {}
        for entry in entries:
            groups.setdefault(entry.lane, []).append(entry)
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
