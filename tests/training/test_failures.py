"""Numbers that are not finite never end in a file or in success, and the message says what to do."""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from velatura.adapters.attach import put_on_fresh
from velatura.adapters.targets import choose
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import MemoryShortage, NumericError
from velatura.events import BatchSplit, StepFinished, StepLeftOut
from velatura.objectives.flow import Flow
from velatura.training.ema import Ema
from velatura.training.health.idle_layers import IdleLayers
from velatura.training.step import Stepper

from ..tiny import load, write_flux
from .conftest import Train, equal, tensors


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
    def broken(self: Ema, step: int, steps: int) -> None:
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
    """With what was in hand, what is held, and what would help this run. Sizes are worked out from the shapes."""
    seen: list[Stepper] = []

    def too_much(self: Flow, *_: object) -> None:
        raise error

    def remember(self: Stepper, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        seen.append(self)

    real = Stepper.__init__
    monkeypatch.setattr(Stepper, "__init__", remember)
    monkeypatch.setattr(Flow, "errors", too_much)
    with pytest.raises(MemoryShortage) as caught:
        run(
            training={"steps": 1, "batch_size": 3, "checkpoint_blocks": True},
            ema={"device": "cpu"},
            data={"resolution": 64},
        )
    message = str(caught.value)
    assert re.match(
        r"the memory of .* is not enough for step 1, with [23] images of (64x64|80x48) \(", message
    )
    trained = sum(parameter.numel() for parameter in seen[0].parameters) * 4 / 2**20
    assert (
        f"trained weights {trained:.2f} MiB, average (ema) {trained:.2f} MiB, activations and the rest "
        in message
    )
    assert "gradients" not in message
    remedies = message.split("the most helpful first: ")[1].split("; ")
    half = 2 if "with 3 images" in message else 1
    assert remedies[:3] == [
        f"memory.micro_batch = {half}, for smaller forward passes with the same result",
        "training.retry_on_oom = true, which finds out how small",
        'memory.weights = "fp8"',
    ]


def test_other_errors_stay_what_they_are(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Stepper, "__call__", wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(training={"steps": 1})


def test_a_disk_that_fills_up_keeps_the_state_before(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with what to do, nothing half written stays, and it goes on from there."""
    from velatura.errors import StorageError
    from velatura.training.states import state

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


def broken_in(monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
    """Let the loss of the first item be NaN in these calls, counted from 1."""
    real, count = Flow.errors, iter(range(1, 1000))

    def errors(self: Flow, *arguments: Any) -> torch.Tensor:
        result = real(self, *arguments)
        return (
            result * torch.tensor([math.nan] + [1.0] * (len(result) - 1)) if next(count) in calls else result
        )

    monkeypatch.setattr(Flow, "errors", errors)


def test_a_loss_that_is_not_finite_names_item_noise_level_precision_and_last_state(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_in(monkeypatch, 3)
    with pytest.raises(NumericError) as caught:
        run(training={"steps": 4, "save_every": 2})
    state = tmp_path / "runs" / "tiny" / "state" / "000002"
    assert re.fullmatch(
        r"step 3: the loss is not finite for \S+\d\d\.png \(t = 0\.\d+\) \(computed in torch\.float32\)\. Nothing was "
        rf"updated\. Lower .* The last state saved is {state}\.",
        str(caught.value),
    )


def test_steps_that_are_not_finite_are_left_out_as_often_as_is_allowed(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped and resumed in between, the count goes on, and so do the weights."""
    with monkeypatch.context() as patch:
        broken_in(patch, 2, 5)
        whole = run(training={"steps": 6, "skip_nonfinite": 2})
    left_out = whole.log.of(StepLeftOut)
    assert [(event.step, event.left_out) for event in left_out] == [(2, 1), (5, 2)]
    assert "step 2: the loss is not finite for" in left_out[0].message
    assert [event.step for event in whole.log.of(StepFinished)] == [1, 3, 4, 6]
    assert "left out, 2 of 2 that training.skip_nonfinite allows: step 5" in whole.log.texts
    assert "steps left out, not finite</th><td>2<" in (whole.folder / "report.html").read_text()

    with monkeypatch.context() as patch:
        broken_in(patch, 2, 5)
        run(into="other", training={"steps": 6, "skip_nonfinite": 2}, stop_after=3)
        resumed = run(into="other", training={"steps": 6, "skip_nonfinite": 2}, resume=True)
    assert [(event.step, event.left_out) for event in resumed.log.of(StepLeftOut)] == [(5, 2)]
    assert equal(resumed.state(), whole.state())
    assert equal(resumed.state("optimizer"), whole.state("optimizer"))


def test_one_more_than_is_allowed_stops_the_run(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_in(monkeypatch, 2, 4)
    with pytest.raises(
        NumericError, match="step 4: .* training.skip_nonfinite = 1, and so many were left out"
    ):
        run(training={"steps": 6, "skip_nonfinite": 1})


def test_a_run_of_which_every_step_was_left_out_is_no_success(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_in(monkeypatch, 1, 2)
    with pytest.raises(
        NumericError, match="of 2 steps 2 had a loss or gradient that is not finite.* nothing was learned"
    ):
        run(training={"steps": 2, "skip_nonfinite": 5})


def test_broken_weights_stop_a_run_that_may_leave_steps_out(run: Train, tmp_path: Path) -> None:
    model = write_flux(tmp_path / "broken")
    file = model / "transformer" / "diffusion_pytorch_model.safetensors"
    values = tensors(file)
    values["proj_out.weight"][0, 0] = math.nan
    write_safetensors(file, values)
    with pytest.raises(NumericError, match="step 1: .* because weights of the denoiser are not finite"):
        run(training={"steps": 3, "skip_nonfinite": 3}, model={"model": str(model)})


def test_layers_that_get_no_gradient_are_told(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all layers two are cut off from the loss."""
    real = IdleLayers.__init__

    def cut(self: IdleLayers, adapter: Any, *rest: Any) -> None:
        for layer in list(adapter.layers.values())[1:3]:
            layer.up.requires_grad_(False)
        real(self, adapter, *rest)

    monkeypatch.setattr(IdleLayers, "__init__", cut)
    few = run(training={"steps": 2}).log.texts
    idle = next(line for line in few.splitlines() if "no gradient" in line)
    assert re.match(
        r"2 of \d+ adapted layers get no gradient and learn nothing: transformer_blocks\.0\.", idle
    )


def test_layers_that_learn_are_not_remarked(run: Train) -> None:
    assert "no gradient" not in run(training={"steps": 12}).log.texts


def test_a_step_for_which_memory_is_short_is_repeated_with_the_same_result(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the 64x64 pictures two fit at once, not four; a resumed run knows it, and draws the same numbers."""
    settings: dict[str, Any] = {
        "training": {"steps": 6, "batch_size": 4, "retry_on_oom": True},
        "optimizer": {"learning_rate": 0.01},
    }
    real = Flow.errors

    def narrow(self: Flow, *arguments: Any) -> torch.Tensor:
        result = real(self, *arguments)
        if len(result) > 2 and arguments[2].latents.shape[2:] == (8, 8):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return result

    whole = run(into="whole", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(Flow, "errors", narrow)
        split = run(into="split", **settings)
        run(**settings, stop_after=4)
        resumed = run(**settings, resume=True)
    assert [(event.size, event.items, event.most) for event in split.log.of(BatchSplit)] == [("64x64", 4, 2)]
    assert "memory ran out with 4 images of 64x64 at once" in (split.folder / "report.html").read_text()
    assert split.losses == pytest.approx(whole.losses, rel=1e-5)
    for name, value in whole.state().items():
        torch.testing.assert_close(split.state()[name], value, rtol=1e-3, atol=1e-5)
    assert resumed.log.of(BatchSplit) == []
    assert equal(resumed.state(), split.state())
