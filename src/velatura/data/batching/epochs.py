"""Which entries an epoch uses: all of them, but for repeats that are fractions and images that fade out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from velatura.data.batching.plan import Entry
from velatura.data.batching.rated import Fading
from velatura.draws import permutation

Mask = NDArray[np.bool_]


class Uses:
    """The entries of each epoch: a pure function of (seed, epoch).

    An entry of share 1/3 is used in every third epoch, so over n epochs as often as n/3 rounded down or up; entries
    of one share take turns, so that every epoch has the same number of them, give or take one.
    """

    def __init__(self, entries: Sequence[Entry], *, seed: int, fading: Fading | None = None) -> None:
        self._seed = seed
        self._fading = fading
        self._shares = np.array([entry.share for entry in entries])
        self._phases = _phases(self._shares, seed)
        if fading is None:
            return
        images = {name: number for number, name in enumerate(dict.fromkeys(e.item.name for e in entries))}
        self._image = np.array([images[entry.item.name] for entry in entries])
        self._ratings = np.zeros(len(images))
        self._ratings[self._image] = [entry.item.treatment.rating for entry in entries]

    @property
    def constant(self) -> bool:
        """True when every epoch uses all entries."""
        return bool((self._shares >= 1).all()) and (self._fading is None or self._fading.keep >= 1)

    def of(self, epoch: int) -> Mask:
        """Which entries an epoch uses, `[number of entries]`."""
        whole = np.floor((epoch + 1) * self._shares + self._phases)
        used: Mask = whole > np.floor(epoch * self._shares + self._phases)
        if self._fading is not None:
            used &= self._fading.kept(self._ratings, self._seed, epoch)[self._image]
        return used


def _phases(shares: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """When each entry has its turn, in (0, 1): evenly spread among the entries of one share, in random order."""
    phases = np.empty(len(shares))
    order = np.array(permutation(seed, "phase", 0, len(shares)))
    for share in np.unique(shares):
        mine = order[shares[order] == share]
        phases[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    return phases
