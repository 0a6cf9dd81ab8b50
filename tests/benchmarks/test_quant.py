"""The figures of benchmarks/quant.py: a row for every kind, and paired differences by hand."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from velatura.placement.precision.quantised import LINEARS


def test_differences_are_paired_by_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    quant = import_module("quant")
    marks = {"full": [3, 4], "fp8": [3, 4], "int8": [0, 4], "nf4": [4, 2]}  # right of 4, for two captions

    def load(model: str, *, device: str, weights: str) -> Any:
        return lambda caption, *, seed, steps: [np.array(marks[weights][seed])]

    def check(picture: Any, caption: str) -> SimpleNamespace:
        right = [place < int(picture) for place in range(4)]
        return SimpleNamespace(marks=[SimpleNamespace(right=one) for one in right], right=all(right))

    monkeypatch.setattr(quant, "Pipeline", SimpleNamespace(load=load))
    monkeypatch.setattr(quant, "check", check)
    rows = [
        (row["weights"], row["score"], row["right"], row["apart"], row["error"])
        for row in quant.scores(2, 1, "cpu")
    ]
    assert rows == [
        ("full", "attributes", 87.5, 0, 0),
        ("fp8", "attributes", 87.5, 0, 0),
        ("int8", "attributes", 50, -37.5, pytest.approx(37.5)),  # of -75 and 0
        ("nf4", "attributes", 75, -12.5, pytest.approx(37.5)),  # of 25 and -50
        ("full", "pictures", 50, 0, 0),
        ("fp8", "pictures", 50, 0, 0),
        ("int8", "pictures", 50, 0, 0),
        ("nf4", "pictures", 50, 0, pytest.approx(100)),  # of 100 and -100
    ]


@pytest.mark.slow
def test_the_scene_score_in_8_bits_stays_within_two_points() -> None:
    """Of the attributes that 36 captions state, the share that pictures have right, from the same noise."""
    rows = import_module("quant").scores(36, 8, "cpu", ("full", "fp8", "int8"))
    right = {row["weights"]: row["right"] for row in rows if row["score"] == "attributes"}
    assert right["full"] > 85
    assert right["fp8"] == pytest.approx(right["full"], abs=2.0)
    assert right["int8"] == pytest.approx(right["full"], abs=2.0)


def test_errors_are_of_every_kind() -> None:
    rows = import_module("quant").errors(64, 16)
    assert [(row["inputs"], row["weights"]) for row in rows] == [
        (inputs, kind) for inputs in ("normal", "heavy") for kind in LINEARS
    ]
    assert all(0 < row[of] < 0.15 for row in rows for of in ("output", "gradient"))
