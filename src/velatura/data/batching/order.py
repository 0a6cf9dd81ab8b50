"""The order of training: a pure function of (seed, step), so a resumed run needs only its step number."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from velatura.data.batching.buckets import Bucket
from velatura.data.batching.cycles import in_cycles
from velatura.data.batching.epochs import Uses
from velatura.data.batching.lanes import Incomplete, Lanes
from velatura.data.batching.plan import Entry
from velatura.data.batching.rated import Fading
from velatura.data.items import Identity
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
    """What an epoch does, for people. Where epochs differ, batches and fillers are those of the first."""

    buckets: Mapping[Bucket, int]  # entries per bucket, most first
    batches: int  # micro-batches per epoch
    small_batches: int  # of these, with fewer entries than the batch size
    fillers: int  # uses beyond the repeats, that fill up batches
    steps: float  # optimizer steps per epoch
    images: int  # uses per epoch, fillers included


class BatchPlan:
    """Endless shuffled epochs of micro-batches, each of one lane (one size, one group).

    An epoch holds every entry exactly once (entries of a `share` below 1, and images that fade out, in some epochs
    only: see `epochs.Uses`): entries are permuted, cut per lane into micro-batches, and the micro-batches permuted.
    The last of a lane may be small; with `incomplete = "fill"` other entries of the lane are used once more in it.
    Nothing is dropped. A step takes the next `accumulate` micro-batches, running over the ends of epochs; those of
    one group come in as few steps as possible.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        batch_size: int,
        accumulate: int = 1,
        seed: int = 0,
        incomplete: Incomplete = "small",
        fading: Fading | None = None,
    ) -> None:
        if not entries or batch_size < 1 or accumulate < 1:
            raise ValueError(f"need entries and sizes >= 1; got {len(entries)}, {batch_size}, {accumulate}")
        self.entries = tuple(entries)
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.seed = seed
        self.histogram = Counter(entry.bucket for entry in self.entries)
        self._lanes = Lanes(self.entries, batch_size=batch_size, incomplete=incomplete)
        self._uses = Uses(self.entries, seed=seed, fading=fading)
        self._starts = [0]  # number of the first micro-batch of each epoch, as far as it is known
        self._epochs: OrderedDict[int, list[list[int]]] = OrderedDict()

    @property
    def steps(self) -> None:
        """Epochs go on for ever."""

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches of the first epoch; others differ only where not all entries are used in all epochs."""
        return self._start(1)

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps of the first epoch."""
        return self.batches_per_epoch / self.accumulate

    def micro_batches(self, step: int) -> list[list[Placed]]:
        """The `accumulate` micro-batches of a step; steps count from 0. Costs one shuffle per new epoch."""
        if step < 0:
            raise ValueError(f"steps count from 0; got {step}")
        batches = []
        slot = 0
        for number in range(step * self.accumulate, (step + 1) * self.accumulate):
            epoch, position = self._place(number)
            batch = [self.entries[index] for index in self._epoch(epoch)[position]]
            batches.append([Placed(entry=e, slot=slot + i, epoch=epoch) for i, e in enumerate(batch)])
            slot += len(batch)
        return batches

    def report(self) -> PlanReport:
        """Bucket sizes, batches and steps per epoch."""
        used = self._uses.of(0)
        fillers = self._lanes.fillers(used)
        return PlanReport(
            buckets=dict(self.histogram.most_common()),
            batches=self.batches_per_epoch,
            small_batches=self._lanes.small(used),
            fillers=fillers,
            steps=self.steps_per_epoch,
            images=int(used.sum()) + fillers,
        )

    def uses(self) -> dict[Identity, float]:
        """Uses of each item per epoch by its identity, on average, fillers included."""
        shares = np.array([entry.share for entry in self.entries])
        extra = self._lanes.extra(self._uses.of(0), shares)
        uses: dict[Identity, float] = {}
        for entry, more in zip(self.entries, extra.tolist(), strict=True):
            identity = entry.item.identity
            uses[identity] = uses.get(identity, 0) + entry.share + more
        return uses

    def _start(self, epoch: int) -> int:
        """The number of an epoch's first micro-batch."""
        if self._uses.constant:
            epoch, rounds = min(epoch, 1), max(epoch, 1)
        else:
            rounds = 1
        while len(self._starts) <= epoch:
            used = self._uses.of(len(self._starts) - 1)
            self._starts.append(self._starts[-1] + self._lanes.batches(used))
        return self._starts[epoch] * rounds

    def _place(self, number: int) -> tuple[int, int]:
        """The epoch of the micro-batch `number`, and its position there."""
        if self._uses.constant:
            return divmod(number, self.batches_per_epoch)
        while self._starts[-1] <= number:
            self._start(len(self._starts))
        epoch = bisect_right(self._starts, number) - 1
        return epoch, number - self._starts[epoch]

    def _epoch(self, epoch: int) -> list[list[int]]:
        if epoch not in self._epochs:
            self._epochs[epoch] = self._shuffle(epoch)
            while len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _shuffle(self, epoch: int) -> list[list[int]]:
        """The micro-batches of an epoch, as indices of entries."""
        order = np.array(permutation(self.seed, "order", epoch, len(self.entries)))
        batches = self._lanes.cut(order[self._uses.of(epoch)[order]])
        shuffled = [batches[i] for i in permutation(self.seed, "order of batches", epoch, len(batches))]
        if self.accumulate == 1 or not self._lanes.grouped:
            return shuffled
        return self._together(shuffled, epoch)

    def _together(self, batches: list[list[int]], epoch: int) -> list[list[int]]:
        """Shuffled micro-batches, those of a group in steps of their own as far as possible."""
        free: list[int] = []
        groups: dict[str, list[int]] = {}
        for number, batch in enumerate(batches):
            group = self.entries[batch[0]].item.treatment.group
            (groups.setdefault(group, []) if group else free).append(number)
        begun = -self._start(epoch) % self.accumulate
        cycles = in_cycles(groups.values(), free, size=self.accumulate, first=begun)
        head = cycles[: 1 if begun else 0]
        whole = [cycle for cycle in cycles[len(head) :] if len(cycle) == self.accumulate]
        tail = cycles[len(head) + len(whole) :]
        order = permutation(self.seed, "order of cycles", epoch, len(whole))
        return [batches[i] for cycle in (*head, *(whole[i] for i in order), *tail) for i in cycle]


class OrderedPlan:
    """Every entry once, in order, grouped by bucket: for validation. Step k is the k-th micro-batch."""

    def __init__(self, entries: Sequence[Entry], *, batch_size: int) -> None:
        lanes: dict[object, list[Entry]] = {}
        for entry in entries:
            lanes.setdefault(entry.lane, []).append(entry)
        self._batches: list[list[Placed]] = []
        slot = 0
        for lane in lanes.values():
            size = lane[0].batch_size or batch_size
            for start in range(0, len(lane), size):
                chunk = lane[start : start + size]
                self._batches.append([Placed(entry=entry, slot=slot + i) for i, entry in enumerate(chunk)])
                slot += len(chunk)

    @property
    def steps(self) -> int:
        """Number of micro-batches."""
        return len(self._batches)

    def micro_batches(self, step: int) -> list[list[Placed]]:
        """One micro-batch; its slots count through the whole plan, so that fixed noise is one per entry."""
        return [self._batches[step]]
