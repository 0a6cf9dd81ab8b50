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
    right = {"full": [1, 0], "fp8": [1, 0], "int8": [0, 0], "nf4": [0, 1]}  # of two captions

    def load(model: str, *, device: str, weights: str) -> Any:
        return lambda caption, *, seed, steps: [np.array(right[weights][seed])]

    monkeypatch.setattr(quant, "Pipeline", SimpleNamespace(load=load))
    monkeypatch.setattr(quant, "check", lambda picture, caption: SimpleNamespace(right=bool(picture)))
    assert quant.scores(2, 1, "cpu") == [
        {"weights": "full", "right": 50, "apart": 0, "error": 0},
        {"weights": "fp8", "right": 50, "apart": 0, "error": 0},
        {"weights": "int8", "right": 0, "apart": -50, "error": pytest.approx(50)},  # of -100 and 0
        {"weights": "nf4", "right": 50, "apart": 0, "error": pytest.approx(100)},  # of -100 and 100
    ]


def test_errors_are_of_every_kind() -> None:
    rows = import_module("quant").errors(64, 16)
    assert [(row["inputs"], row["weights"]) for row in rows] == [
        (inputs, kind) for inputs in ("normal", "heavy") for kind in LINEARS
    ]
    assert all(0 < row[of] < 0.15 for row in rows for of in ("output", "gradient"))
