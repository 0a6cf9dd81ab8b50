"""N processes with batch B are one process with batch N B: the same losses, the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .conftest import Start, Team

STEPS = 6
COMMON: dict[str, Any] = {
    "data": {"flip": 0.5, "resolution": [64, 48]},
    "objective": {"kind": "flow", "caption_dropout": 0.4},
    # eps: Adam makes whole steps of gradients that are rounding alone
    "optimizer": {"learning_rate": 0.01, "warmup_steps": 2, "eps": 1e-5},
    "validation": {"share": 0.3, "every": 3},
    "previews": {"prompts": ["a red cube"], "every": 3, "baseline": False},
}


def start(together: Start, processes: int, batch_size: int, **sections: Any) -> Team:
    training = {"steps": STEPS, "batch_size": batch_size, "save_every": 3, **sections.get("training", {})}
    return together(processes, **{**COMMON, **sections, "training": training})


def assert_equal(several: Team, one: Team) -> None:
    assert several.codes == [0] * len(several.codes), several.said
    assert several.losses == pytest.approx(one.losses, abs=1e-6)
    assert several.of("StepFinished", "images") == one.of("StepFinished", "images")
    assert several.of("ValidationFinished") == pytest.approx(one.of("ValidationFinished"), abs=1e-6)
    alone = one.result()
    for name, value in several.result().items():
        torch.testing.assert_close(value, alone[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_adapters(together: Start, processes: int) -> None:
    """Buckets of 5, 2 and so on: some micro-batches have fewer items than there are processes."""
    several = start(together, processes, 1)
    one = start(together, 1, processes)
    assert_equal(several, one)
    names = [sorted(str(p.relative_to(t.folder)) for p in t.folder.rglob("*.*")) for t in (several, one)]
    assert [n for n in names[0] if "tfevents" not in n] == [n for n in names[1] if "tfevents" not in n]
    assert all(said == "" for said in several.said[1:])  # one speaks


FULL: dict[str, Any] = {"full": {"parts": ["denoiser"]}}
SEVERAL: dict[str, dict[str, Any]] = {
    "average": {**FULL, "ema": {"decay": 0.9}},
    "recomputed": {**FULL, "training": {"checkpoint_blocks": True, "accumulate": 2}},
    "compiled": {**FULL, "training": {"compile": True}},
    "text encoders": {"full": {"parts": ["denoiser", "text_encoders"]}},
    "muon": {**FULL, "optimizer": {"kind": "muon", "learning_rate": 0.01}},
    "adafactor": {**FULL, "optimizer": {"kind": "adafactor", "learning_rate": 0.001}},
    "autoencoder": {
        "full": {"parts": ["autoencoder"]},
        "objective": {"kind": "autoencoder", "crop": 32},
        "optimizer": {
            "learning_rate": 0.001,
            "eps": 0.001,
        },  # gradients of biases before norms are rounding alone
        "previews": {},
    },
    "drawn data, nothing cached": {
        "data": {"crop": "random", "tag_dropout": 0.3, "tag_separator": " ", "weight": 0.5, "repeats": 1.5},
        "memory": {"cache": False},
        "rated": {"keep": 0.5, "epochs": 2},
    },
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "average" else pytest.mark.slow) for kind in SEVERAL],
)
def test_whole_parts_and_drawn_data(together: Start, kind: str) -> None:
    several = start(together, 2, 1, **SEVERAL[kind])
    one = start(together, 1, 2, **SEVERAL[kind])
    assert_equal(several, one)


@pytest.mark.slow
def test_weights_in_bf16(together: Start) -> None:
    """Gradients are summed up in another order, in bf16; the draws of roundings are the same."""
    sections: dict[str, Any] = {
        "full": {"parts": ["denoiser"], "weights": "bf16"},
        "training": {"precision": "bf16"},
        "previews": {},
    }
    several, one = start(together, 2, 1, **sections), start(together, 1, 2, **sections)
    assert several.codes == [0, 0], several.said
    assert several.losses == pytest.approx(one.losses, rel=0.02)
    alone = one.result()
    for name, value in several.result().items():
        torch.testing.assert_close(value.float(), alone[name].float(), rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_batches_by_tokens(together: Start) -> None:
    """16 tokens are one picture of 64x64, or one of 80x48: each process takes one, as the other one would."""
    common = {**COMMON, "data": {"resolution": 64}}
    several = start(together, 2, 1, **common, training={"batch_tokens": 16})
    one = start(together, 1, 1, **common, training={"batch_tokens": 32})
    assert_equal(several, one)
