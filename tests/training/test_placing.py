"""Where blocks live changes what is held where, and nothing of what is learned."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from velatura.errors import RecipeError
from velatura.events import FileSaved, Notice

from .conftest import Train, equal

ALL = {"targets": ["attention", "mlp", "modulation"]}
SECTIONS: dict[str, Any] = {
    "adapter": ALL,
    "optimizer": {"learning_rate": 0.01},
    "training": {"steps": 4, "batch_size": 2},
    "previews": {"prompts": ["a red cube"], "every": 2},
}


@pytest.mark.parametrize("weights", ["full", "fp8", "int8"])
def test_streamed_runs_learn_the_same_bit_for_bit(run: Train, weights: str) -> None:
    resident = run(into="resident", memory={"weights": weights}, **SECTIONS)
    streamed = run(into="streamed", memory={"weights": weights, "streamed": 0.8}, **SECTIONS)
    assert "are streamed from the machine's memory" in streamed.log.texts
    assert streamed.losses == resident.losses
    assert equal(streamed.state(), resident.state())
    ours, theirs = (
        sorted(path.read_bytes() for path in (of.folder / "previews").rglob("*.png"))
        for of in (streamed, resident)
    )
    assert len(ours) > 1
    assert ours == theirs
    assert streamed.log.of(FileSaved)


def test_a_run_may_be_streamed_later(run: Train) -> None:
    """How weights are placed is no part of what a run learns."""
    run(into="a", stop_after=2, **SECTIONS)
    later = run(into="a", resume=True, memory={"streamed": 1.0}, **SECTIONS)
    whole = run(into="b", **SECTIONS)
    assert equal(later.state(), whole.state())


def test_streaming_on_the_cpu_is_remarked(run: Train) -> None:
    log = run(memory={"streamed": 0.5}, training={"steps": 1}).log
    warnings = [notice.message for notice in log.of(Notice) if notice.level == "warning"]
    assert any("memory.streamed: streamed weights have no use on the CPU" in line for line in warnings)


def test_what_is_trained_in_full_is_not_streamed(run: Train) -> None:
    with pytest.raises((RecipeError, ValueError), match=r"memory\.streamed|received 0\.5 with \[full\]"):
        run(memory={"streamed": 0.5}, full={}, training={"steps": 1})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch's CPU code needs one")
def test_streamed_and_compiled(run: Train) -> None:
    training = {"steps": 3, "batch_size": 2}
    eager = run(into="eager", **{**SECTIONS, "training": training})
    both = run(
        into="both", memory={"streamed": 1.0}, **{**SECTIONS, "training": {**training, "compile": True}}
    )
    assert both.losses == pytest.approx(eager.losses, rel=1e-4)
    ours, theirs = both.state(), eager.state()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) < 1e-3
    assert any(bool(torch.any(value)) for name, value in ours.items() if name.endswith(".up"))
