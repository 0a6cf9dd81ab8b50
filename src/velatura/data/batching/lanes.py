"""Lanes: the entries that may share a batch, and how an epoch's entries are cut into batches along them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from velatura.data.batching.plan import Entry

Incomplete = Literal["small", "fill"]
Counts = NDArray[np.int64]


class Lanes:
    """The lanes of all entries, each with its batch size.

    What remains of a lane after its full batches is a small batch; with "fill", entries of the lane, drawn at random,
    are used once more to make it full.
    """

    def __init__(
        self, entries: Sequence[Entry], *, batch_size: int, incomplete: Incomplete = "small"
    ) -> None:
        lanes = [entry.lane for entry in entries]
        number = {lane: i for i, lane in enumerate(dict.fromkeys(lanes))}
        self._lane: Counts = np.array([number[lane] for lane in lanes])
        self._sizes: Counts = np.array([size or batch_size for _, size, _, _ in number])
        self._fills = incomplete == "fill"
        self.grouped = any(group for _, _, group, _ in number)

    def batches(self, used: NDArray[np.bool_]) -> int:
        """How many batches the used entries make."""
        return int((-(-self._counts(used) // self._sizes)).sum())

    def small(self, used: NDArray[np.bool_]) -> int:
        """How many of these batches have fewer entries than the batch size."""
        return 0 if self._fills else int(np.count_nonzero(self._counts(used) % self._sizes))

    def fillers(self, used: NDArray[np.bool_]) -> int:
        """How many entries are used once more to fill up batches."""
        return int(self._missing(used).sum())

    def extra(self, used: NDArray[np.bool_], shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """How often each entry fills up a batch, on average over epochs that use as many entries."""
        total = np.bincount(self._lane, weights=shares, minlength=len(self._sizes))
        extra: NDArray[np.float64] = (self._missing(used) / total)[self._lane] * shares
        return extra

    def cut(self, order: Counts) -> list[list[int]]:
        """The batches of an epoch that uses entries in this random order; in order of their first entries."""
        lanes = self._lane[order]
        by_lane = np.argsort(lanes, kind="stable")
        ends = np.cumsum(np.bincount(lanes, minlength=len(self._sizes)))
        found: list[tuple[int, list[int]]] = []
        for size, places in zip(self._sizes.tolist(), np.split(by_lane, ends[:-1]), strict=True):
            lane = order[places].tolist()
            starts = range(0, len(lane), size)
            found += [
                (place, lane[i : i + size]) for i, place in zip(starts, places[::size].tolist(), strict=True)
            ]
            if self._fills and lane:
                last = found[-1][1]
                last += islice(cycle(lane), size - len(last))  # the first ones of a random order
        return [batch for _, batch in sorted(found)]

    def _counts(self, used: NDArray[np.bool_]) -> Counts:
        return np.bincount(self._lane[used], minlength=len(self._sizes))

    def _missing(self, used: NDArray[np.bool_]) -> Counts:
        return -self._counts(used) % self._sizes * self._fills
