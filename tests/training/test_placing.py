"""Where blocks live changes what is held where, and nothing of what is learned."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from velatura.events import FileSaved, Notice
from velatura.placement.streamed import activations
from velatura.training.optimizers import visits

from .conftest import Train, equal

ALL = {"targets": ["attention", "mlp", "modulation"]}
SECTIONS: dict[str, Any] = {
    "adapter": ALL,
    "optimizer": {"learning_rate": 0.01},
    "training": {"steps": 4, "batch_size": 2},
    "previews": {"prompts": ["a red cube"], "every": 2},
}


@pytest.mark.parametrize("weights", ["full", "fp8", "int8", "nf4"])
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


def test_offloading_averages_on_the_cpu_is_remarked(run: Train) -> None:
    log = run(full={}, optimizer={"offload": True}, training={"steps": 1}).log
    warnings = [notice.message for notice in log.of(Notice) if notice.level == "warning"]
    assert any("optimizer.offload: on the CPU the averages are in" in line for line in warnings)


IN_FULL: dict[str, dict[str, Any]] = {
    "gradients go out, clipped, over several passes, with an average": {
        "full": {},
        "optimizer": {"learning_rate": 0.01, "clip": 0.05},
        "training": {"steps": 4, "accumulate": 2},
        "ema": {"saved": "both"},
    },
    "new weights go back, in bf16": {
        "full": {"weights": "bf16", "parts": ["denoiser", "text_encoders"]},
        "optimizer": {"kind": "adafactor", "learning_rate": 0.01, "clip": 0, "fused_backward": True},
        "training": {"steps": 4, "batch_size": 2, "precision": "bf16"},
    },
    "some weights of the blocks, in bf16, with an average": {
        "full": {"weights": "bf16", "only": "*.attn.*"},
        "ema": {"saved": "both"},
        "optimizer": {"kind": "adamw8bit", "learning_rate": 0.01, "clip": 0.05},
        "training": {"steps": 4, "precision": "bf16", "checkpoint_blocks": True},
    },
    "muon": {
        "full": {},
        "optimizer": {"kind": "muon", "learning_rate": 0.01, "clip": 0.05},
        "training": {"steps": 4, "checkpoint_blocks": True},
    },
}


@pytest.fixture
def all_but_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model has nothing large."""
    monkeypatch.setattr(visits, "LEAST", 1024)
    monkeypatch.setattr(activations, "LEAST", 1024)


@pytest.mark.usefixtures("all_but_vectors")
@pytest.mark.parametrize("case", IN_FULL)
def test_streamed_and_offloaded_in_full_bit_for_bit(run: Train, case: str) -> None:
    """Weights, averages, results and previews; also where a run goes on elsewhere."""
    sections = {**IN_FULL[case], "previews": SECTIONS["previews"]}
    optimizer = sections["optimizer"]
    offload = (
        {"optimizer": {**optimizer, "offload": optimizer["kind"] != "adafactor"}}
        if "kind" in optimizer
        else {}
    )
    away: dict[str, Any] = {**sections, **offload, "memory": {"streamed": 0.8, "offload_activations": True}}
    resident = run(into="resident", **sections)
    run(into="away", stop_after=2, **{**sections, "memory": {"streamed": 1.0}})
    streamed = run(into="away", resume=True, **away)
    assert "are streamed from the machine's memory" in streamed.log.texts
    assert streamed.losses == resident.losses[2:]
    for group in ("values", "average", "optimizer"):
        if group != "average" or "ema" in sections:
            assert equal(streamed.state(group), resident.state(group)), group
    ours, theirs = (
        {
            str(path.relative_to(of.folder)): path.read_bytes()
            for kind in ("*.png", "model*/**/*.safetensors")
            for path in of.folder.rglob(kind)
        }
        for of in (streamed, resident)
    )
    assert len(ours) > 3
    assert ours == theirs


@pytest.mark.usefixtures("all_but_vectors")
def test_offloaded_without_streaming_bit_for_bit(run: Train) -> None:
    sections: dict[str, Any] = {"full": {}, "training": {"steps": 3, "checkpoint_blocks": True}}
    optimizer = {"learning_rate": 0.01, "clip": 0.05}
    resident = run(into="resident", optimizer=optimizer, **sections)
    away = run(
        into="away",
        optimizer={**optimizer, "offload": True},
        memory={"offload_activations": True},
        **sections,
    )
    assert away.losses == resident.losses
    assert equal(away.state(), resident.state())
    assert equal(away.state("optimizer"), resident.state("optimizer"))


@pytest.mark.usefixtures("all_but_vectors")
def test_activations_of_a_run_with_an_adapter(run: Train) -> None:
    training = {"steps": 3, "checkpoint_blocks": 2}
    kept = run(into="kept", **{**SECTIONS, "training": training})
    memory = {"offload_activations": True}
    away = run(into="away", memory=memory, **{**SECTIONS, "training": training})
    assert away.losses == kept.losses
    assert equal(away.state(), kept.state())
    assert "memory.offload_activations: the CPU computes in the machine's memory" in away.log.texts


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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch's CPU code needs one")
@pytest.mark.parametrize("away", [False, True])
def test_compiled_updates(run: Train, away: bool) -> None:
    """Of bf16 weights with 8-bit averages, on the device or streamed to it; stopped and resumed as well."""
    optimizer: dict[str, Any] = {"kind": "adamw8bit", "learning_rate": 0.01}
    sections: dict[str, Any] = {"full": {"weights": "bf16"}, "optimizer": optimizer}
    training: dict[str, Any] = {"steps": 4, "batch_size": 2, "precision": "bf16"}
    if away:
        optimizer |= {"fused_backward": True, "clip": 0}
        sections["memory"] = {"streamed": 0.8}
    eager = run(into="eager", training=training, **sections)
    sections["training"] = {**training, "compile": True}
    fast = run(into="fast", **sections)
    assert "compiling the updates of adamw8bit" in fast.log.texts
    assert "compiling the updates" not in eager.log.texts
    assert fast.losses == pytest.approx(eager.losses, rel=0.05)
    run(into="resumed", stop_after=2, **sections)
    resumed = run(into="resumed", resume=True, **sections)
    assert equal(resumed.state(), fast.state())
