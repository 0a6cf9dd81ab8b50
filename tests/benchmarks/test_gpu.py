"""The arms of benchmarks/gpu.py: what is trained, in which types, and what becomes of one that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import BENCHMARKS

TINY = {"num_single_layers": 1}


@pytest.mark.parametrize(
    ("name", "of_weights", "autocast", "updates"),
    [
        ("1024-eager", torch.float32, False, "AdamW"),
        ("512-full", torch.float32, True, "ByTensor"),
        ("512-full-bf16-weights", torch.bfloat16, False, "ByTensor"),
    ],
)
def test_what_an_arm_trains(
    name: str, of_weights: torch.dtype, autocast: bool, updates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, step = import_module("gpu"), import_module("velatura.training.step")
    made: list[Any] = []

    class Kept(step.Stepper):  # type: ignore[misc]
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            made.append(self)

    monkeypatch.setattr(step, "Stepper", Kept)
    config = {**import_module("stream").dev(), **gpu.TOY, **TINY}
    arm = gpu.replace(gpu.ARMS[name], size=64, compiled=False)
    gpu.trainer(arm, config, torch.device("cpu"), torch.bfloat16)
    (stepper,) = made
    weights = list(stepper.parts.denoiser.parameters())
    assert {weight.dtype for weight in stepper.parameters} == {of_weights}
    assert (stepper.autocast, stepper.dtype, stepper.clip) == (autocast, torch.bfloat16, 1.0)
    assert type(stepper.optimizer).__name__ == updates
    assert (len(stepper.parameters) == len(weights)) == ("full" in name)


def test_arms_that_train_all_weights_are_as_the_recipe_has_them() -> None:
    gpu = import_module("gpu")
    full = gpu.recipe_of(gpu.ARMS["512-full"], torch.bfloat16)
    narrow = gpu.recipe_of(gpu.ARMS["512-full-bf16-weights"], torch.bfloat16)
    assert (full.full.weights, full.optimizer.kind) == (type(full.full)().weights, "adamw8bit")
    assert (narrow.full.weights, narrow.optimizer.kind) == ("bf16", type(narrow.optimizer)().kind)


def test_an_arm_has_a_process_of_its_own_whose_end_is_told() -> None:
    gpu = import_module("gpu")
    assert gpu.apart(os.getpid) != os.getpid()
    with pytest.raises(BrokenProcessPool):
        gpu.apart(os._exit, 3)


@pytest.mark.slow
def test_an_arm_that_fails_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, file = import_module("gpu"), tmp_path / "gpu.json"
    arms = {
        "broken": gpu.Arm(size=512, weights="of another kind", compiled=False),
        "works": gpu.Arm(size=512, compiled=False),
    }
    monkeypatch.setattr(gpu, "ARMS", arms)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--toy", "--steps", "1", "--json", str(file)])
    with pytest.raises(SystemExit, match="failed: broken$"):
        gpu.main()
    broken, works = json.loads(file.read_text())
    assert broken["name"] == "broken"
    assert "of another kind" in broken["error"]
    assert "seconds" not in broken
    assert works["seconds"] > 0
    assert "error" not in works


@pytest.mark.slow
@pytest.mark.parametrize("given", [["--no-compile"], ["--arms", "512-full-bf16-weights"]])
def test_the_arms_run(tmp_path: Path, given: list[str]) -> None:
    """All without the compiler, which takes a minute for an arm; and one whose blocks and updates are compiled."""
    file = tmp_path / "gpu.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--toy", "--steps", "1", "--json", str(file)]
    done = subprocess.run([*command, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows, eager = json.loads(file.read_text()), "--no-compile" in given
    arms = import_module("gpu").ARMS
    assert [row["name"] for row in rows] == (list(arms) if eager else given[1:])
    assert all(row["seconds"] > 0 and row["mfu"] > 0 and "error" not in row for row in rows)
    assert {row["compiled"] for row in rows} == {not eager}
    assert "the compiler failed" not in done.stderr
    assert "no figures of the true size" in done.stdout
