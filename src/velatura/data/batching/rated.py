"""Rated datasets: from epoch to epoch fewer images are used, and the well-rated ones more often than others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from velatura.draws import Draw


@dataclass(frozen=True, kw_only=True, slots=True)
class Fading:
    """How the share of images in use falls: from all in epoch 0 to `keep` in epoch `epochs`, then it stays."""

    keep: float
    epochs: int

    def share(self, epoch: int) -> float:
        """The share of the images that an epoch uses, 0..1; epochs count from 0."""
        return max(self.keep, 1 - (1 - self.keep) * epoch / self.epochs)

    def kept(self, ratings: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.bool_]:
        """Which of the images an epoch uses: a pure function of seed and epoch.

        Images are drawn one by one without putting back, each in proportion to its rating.
        """
        count = math.ceil(round(self.share(epoch) * len(ratings), 6))
        kept = np.ones(len(ratings), dtype=np.bool_)
        if count < len(ratings):
            # the order of exponential waiting times is that of such draws (Efraimidis and Spirakis, 2006)
            chance = Draw.of(seed, step=epoch).generators("rated")[0]
            waits = chance.exponential(size=len(ratings)) / np.maximum(ratings, 1e-9)
            kept[np.argsort(waits, kind="stable")[count:]] = False
        return kept
