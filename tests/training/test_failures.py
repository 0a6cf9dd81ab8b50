"""Numbers that are not finite never end in a file or in success, and the message says what to do."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from velatura.adapters.attach import put_on_fresh
from velatura.adapters.targets import choose
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import MemoryShortage, NumericError
from velatura.events import StepFinished
from velatura.objectives.flow import Flow
from velatura.training.ema import Ema

from ..tiny import load, write_flux
from .conftest import Train, tensors


def files(folder: Path) -> list[str]:
    """Adapters and states."""
    return sorted(path.name for kind in ("adapters", "state") for path in folder.glob(f"{kind}/*"))


@pytest.mark.parametrize("step", [3, 4])
def test_weights_that_an_update_broke_are_not_saved(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Also by the last step, after which no loss is computed."""
    monkeypatch.setattr(
        "velatura.training.loop.learning_rate", lambda _, at, of: math.inf if at == step else 1e-3
    )
    with pytest.raises(NumericError) as caught:
        run(training={"steps": 4, "save_every": 2})
    folder = tmp_path / "runs" / "tiny"
    assert f"step {step}: its update made trained weights that are not finite" in str(caught.value)
    assert str(caught.value).endswith(f"The last state saved is {folder / 'state' / '000002'}.")
    assert files(folder) == ["000002", "tiny-000002.safetensors"]
    assert caught.value.exit_code == 1


def test_an_average_that_is_broken_is_not_saved(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Ema, step: int) -> None:
        next(iter(self.average.values())).fill_(math.nan)

    monkeypatch.setattr(Ema, "update", broken)
    with pytest.raises(
        NumericError, match="after step 2: trained weights are not finite.* No state was saved yet"
    ):
        run(training={"steps": 2}, ema={"decay": 0.9})
    assert files(tmp_path / "runs" / "tiny") == []


def test_fp16_that_skips_every_step_is_no_success(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = functools.partial(torch.amp.GradScaler, init_scale=2.0**120)
    monkeypatch.setattr("velatura.training.step.torch.amp.GradScaler", scaler)
    skipped: list[int] = []

    def watch(event: Any) -> None:
        if isinstance(event, StepFinished):
            skipped.append(event.skipped)

    with pytest.raises(
        NumericError, match='fp16 overflowed in each of the 3 steps.* Use precision = "bf16" or "fp32"'
    ):
        run(training={"steps": 3, "precision": "fp16"}, watch=watch)
    assert skipped == [1, 2, 3]
    assert files(tmp_path / "runs" / "tiny") == []


def test_a_validation_loss_that_is_not_finite_stops_the_run(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Flow, "at", lambda self, family, parts, batch, draw, t: torch.full((len(batch.names),), math.nan)
    )
    with pytest.raises(NumericError, match=r"after step 2: validation: the loss is not finite for .*\.png"):
        run(training={"steps": 4}, validation={"share": 0.2, "every": 2})


def test_a_lora_that_is_broken_is_refused(run: Train, tmp_path: Path, tiny_model: Path) -> None:
    from velatura.adapters.files import write_adapter

    _, parts = load(tiny_model)
    assert parts.denoiser is not None
    targets = choose(load(tiny_model)[0].targets(parts.denoiser), ["mlp"]).targets
    adapter = put_on_fresh(parts.denoiser, targets, rank=2, alpha=2, seed=5)
    file = tmp_path / "broken.safetensors"
    write_adapter(file, adapter, split=True, layout="kohya", dtype=torch.float32, metadata={})
    values = tensors(file)
    next(value for name, value in values.items() if "lora_up" in name)[0, 0] = math.nan
    write_safetensors(file, values)
    for dry_run in (True, False):
        with pytest.raises(NumericError, match=f"{file}: .* holds NaN or infinity"):
            run(dry_run=dry_run, adapter={"init_from": str(file)})


def test_a_model_that_is_broken_is_told_and_not_the_pictures(run: Train, tmp_path: Path) -> None:
    model = write_flux(tmp_path / "broken")
    file = model / "transformer" / "diffusion_pytorch_model.safetensors"
    values = tensors(file)
    values["proj_out.weight"][0, 0] = math.nan
    write_safetensors(file, values)
    with pytest.raises(
        NumericError, match=r"because weights of the denoiser are not finite .*proj_out.weight"
    ) as caught:
        run(training={"steps": 1}, model={"model": str(model)})
    assert ".png" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_too_little_memory_is_told(run: Train, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("velatura.training.step.Stepper.__call__", too_much)
    with pytest.raises(
        MemoryShortage, match="the memory of .* is not enough .* What needs less: a smaller resolution"
    ):
        run(training={"steps": 1})


def test_other_errors_stay_what_they_are(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("velatura.training.step.Stepper.__call__", wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(training={"steps": 1})


def test_a_disk_that_fills_up_keeps_the_state_before(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with what to do, nothing half written stays, and it goes on from there."""
    from velatura.errors import StorageError
    from velatura.training import state

    real = state.write_safetensors

    def full(path: Path, *arguments: Any) -> None:
        if "000004" in str(path) and path.name == "optimizer.safetensors":
            raise StorageError("the disk is full.")
        real(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(state, "write_safetensors", full)
        with pytest.raises(
            StorageError, match="cannot save the state of step 4: the disk is full. .* --resume"
        ):
            run(training={"steps": 6, "save_every": 2})
    folder = tmp_path / "runs" / "tiny"
    assert files(folder) == ["000002", "tiny-000002.safetensors"]
    resumed = run(resume=True, training={"steps": 6, "save_every": 2})
    assert [event.step for event in resumed.log.of(StepFinished)] == [3, 4, 5, 6]
