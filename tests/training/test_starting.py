"""Weights to begin with: of another run's state, an adapter, a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from velatura.errors import CheckpointError, RecipeError

from .conftest import Run, Train, equal, tensors

STILL: dict[str, Any] = {"optimizer": {"learning_rate": 1e-30, "weight_decay": 0.0}, "training": {"steps": 1}}
FLAT: dict[str, Any] = {"schedule": "constant"}
FULL: dict[str, Any] = {"full": {"parts": ["denoiser"], "only": "proj_out.*"}}


def newest(run: Run) -> Path:
    return sorted((run.folder / "state").iterdir())[-1]


@pytest.mark.parametrize("full", [False, True])
def test_the_values_of_another_runs_state(run: Train, full: bool) -> None:
    """With a fresh optimizer, at step 0; and the state counts by what is in it."""
    first = run(into="first", training={"steps": 2}, **(FULL if full else {}))
    section = "full" if full else "adapter"

    def beginning(path: Path) -> dict[str, Any]:
        return {section: {**(FULL["full"] if full else {}), "init_from": str(path)}, **STILL}

    second = run(into="second", **beginning(newest(first)))
    assert equal(second.state(), first.state())
    assert [event.step for event in second.log.seen if type(event).__name__ == "StepFinished"] == [1]
    moved = newest(first).rename(first.folder / "best")
    again = {**beginning(moved), "training": {"steps": 2}}
    assert run(into="second", resume=True, **again).outcome.step == 2
    other = run(into="other", seed=9, training={"steps": 1}, **(FULL if full else {}))
    with pytest.raises(RecipeError, match=f"{section}.init_from is another file, or one with other values"):
        run(into="second", resume=True, **{**beginning(newest(other)), "training": {"steps": 3}})


@pytest.mark.parametrize("full", [False, True])
def test_a_state_that_a_run_began_with_is_not_needed_to_go_on(run: Train, full: bool) -> None:
    """Other runs remove their old states. Gone, or not named: twice, for then the run's recipe has forgotten it."""
    kind: dict[str, Any] = FULL if full else {}
    first = run(into="first", training={"steps": 1}, **kind)
    section = "full" if full else "adapter"
    named = {section: {**kind.get("full", {}), "init_from": str(newest(first))}}
    whole = run(into="whole", training={"steps": 4}, optimizer=FLAT, **named)
    for step in (1, 2):
        run(into="second", resume=step > 1, training={"steps": step}, optimizer=FLAT, **named)
    shutil.rmtree(newest(first))
    run(into="second", resume=True, training={"steps": 3}, optimizer=FLAT, **named)
    last = run(into="second", resume=True, training={"steps": 4}, optimizer=FLAT, **kind)
    assert equal(last.state(), whole.state())


def test_a_file_that_a_run_began_with_is_needed_to_go_on(run: Train, tmp_path: Path) -> None:
    """It has the layers."""
    first = run(into="first", training={"steps": 1})
    file = first.outcome.files[0].rename(tmp_path / "own.safetensors")
    run(into="second", training={"steps": 1}, adapter={"init_from": str(file)})
    with pytest.raises(RecipeError, match=r"began with .*own.safetensors, .* Give --init-from again"):
        run(into="second", resume=True, training={"steps": 2})
    moved = file.rename(tmp_path / "moved.safetensors")
    with pytest.raises(RecipeError, match="Put it back: .*own.safetensors is not there"):
        run(into="second", resume=True, training={"steps": 2}, adapter={"init_from": str(file)})
    again = {"init_from": str(moved)}
    assert run(into="second", resume=True, training={"steps": 2}, adapter=again).outcome.step == 2


def test_a_model_to_begin_full_training_with(run: Train) -> None:
    first = run(
        into="first", training={"steps": 2}, output={"save_dtype": "fp32"}, full={"parts": ["denoiser"]}
    )
    model = first.outcome.files[0]
    second = run(into="second", full={"parts": ["denoiser"], "init_from": str(model)}, **STILL)
    assert equal(second.state(), first.state())
    assert not equal(
        tensors(newest(first) / "values.safetensors"), run(into="third", **FULL, **STILL).state()
    )


def test_a_state_of_other_layers_is_refused_before_anything_begins(run: Train) -> None:
    first = run(into="first", training={"steps": 1})
    for dry_run in (True, False):
        with pytest.raises(
            CheckpointError, match="does not fit this recipe: .* is .* here and .* in the saved values"
        ):
            run(into="second", dry_run=dry_run, adapter={"rank": 2, "init_from": str(newest(first))})
    with pytest.raises(CheckpointError, match="is no state of a run; a state is a folder such as"):
        run(into="third", adapter={"init_from": str(first.folder)})
