"""What weights in 8 bits do to pictures, by the checker of the pocket world's scenes."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from velatura.placement.precision.quantised import Weights
from velatura.pocket.checker import check
from velatura.pocket.dataset import WorldSource
from velatura.sampling.pipeline import Pipeline

CAPTIONS = 36
POINTS = 2.0


@pytest.mark.slow
def test_the_scene_score_stays_within_two_points() -> None:
    """Of the attributes that captions state, the share that pictures have right, from the same noise."""
    source = WorldSource(seed=11, split="held-out")
    captions = [source.text(index, source.scene(index)) for index in range(CAPTIONS)]

    def score(weights: Weights) -> float:
        pipeline = Pipeline.load("pocket/flux", device="cpu", weights=weights)
        shares = []
        for seed, caption in enumerate(captions):
            (picture,) = pipeline(caption, seed=seed, steps=8)
            marks = check(np.asarray(picture), caption).marks
            shares.append(100 * statistics.mean(mark.right for mark in marks))
        return statistics.mean(shares)

    full = score("full")
    assert full > 85
    assert score("fp8") == pytest.approx(full, abs=POINTS)
    assert score("int8") == pytest.approx(full, abs=POINTS)
