"""How a run goes on: from which state, with what changed, and what it says."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from velatura.errors import CheckpointError, RecipeError
from velatura.events import Event, FileSaved, SettingChanged, StepFinished
from velatura.training import export
from velatura.training.states.changes import MAY_CHANGE
from velatura.training.states.identity import FREE
from velatura.training.states.resuming import Resume

from ...tiny import write_pictures
from ..conftest import Train, equal, tensors

LONGER: dict[str, Any] = {"optimizer": {"schedule": "constant"}, "training": {"steps": 4, "save_every": 1}}


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "state").iterdir())


def with_training(**changes: Any) -> dict[str, Any]:
    return {**LONGER, "training": {**LONGER["training"], **changes}}


def test_a_run_goes_back_to_an_older_state(run: Train) -> None:
    first = run(**LONGER, output={"keep_states": 4})
    again = run(resume=Resume(step=2), **LONGER, output={"keep_states": 3})
    assert "going on after step 2" in again.log.texts
    assert (
        "the states of steps 3, 4 come after it, and are removed when the next state is saved"
        in again.log.texts
    )
    assert again.losses == first.losses[2:]
    assert states(again.folder) == ["000002", "000003", "000004"]
    with pytest.raises(CheckpointError, match="no state of step 1; there are those of steps 2, 3, 4"):
        run(resume=Resume(step=1), **LONGER)


def test_where_every_state_is_damaged_nothing_is_begun_anew(run: Train) -> None:
    first = run(**LONGER)
    for step in (3, 4):
        (first.folder / "state" / f"{step:06d}" / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match="is whole:\n  state 4: .*\n  state 3: .*\n.*--init-from"
    ) as caught:
        run(resume=True, **with_training(steps=6))
    assert "remove that folder to begin again" in str(caught.value)
    with pytest.raises(CheckpointError, match="use --resume, which takes the newest"):
        run(resume=Resume(step=4), **with_training(steps=6))
    assert states(first.folder) == ["000003", "000004"]


def test_the_recipe_may_say_that_a_run_goes_on(run: Train) -> None:
    """The same script begins it, and goes on with it."""
    for number in range(2):
        made = run(**with_training(resume="latest", steps=2 + number))
        assert made.outcome.step == 2 + number
    assert [event.step for event in made.log.of(StepFinished)] == [3]


def test_what_changed_may_be_insisted_on_key_by_key(run: Train) -> None:
    run(**with_training(steps=2))
    changed = {"optimizer": {"schedule": "constant", "learning_rate": 0.5, "clip": 2.0}}
    with pytest.raises(RecipeError) as caught:
        run(resume=Resume(forced=("optimizer.clip",)), **{**LONGER, **changed})
    assert "optimizer.learning_rate was 0.0001, is 0.5" in str(caught.value)
    assert "optimizer.clip was" not in str(caught.value)
    assert str(caught.value).endswith("--force-change optimizer.learning_rate")
    forced = run(resume=Resume(forced=("optimizer.learning_rate", "optimizer.clip")), **{**LONGER, **changed})
    assert "insisted on: optimizer.learning_rate was 0.0001, is 0.5" in forced.log.texts
    assert forced.log.of(SettingChanged) == [
        SettingChanged(step=2, key="optimizer.clip", old=1.0, new=2.0, how="forced"),
        SettingChanged(step=2, key="optimizer.learning_rate", old=1e-4, new=0.5, how="forced"),
    ]
    assert {event.learning_rate for event in forced.log.of(StepFinished)} == {0.5}
    log = [json.loads(line) for line in (forced.folder / "events.jsonl").read_text().splitlines()]
    assert [line["key"] for line in log if line["kind"] == "SettingChanged"] == [
        "optimizer.clip", "optimizer.learning_rate",
    ]  # fmt: skip
    assert (
        run(resume=True, **{**with_training(steps=5), **changed, "training": {"steps": 5}}).outcome.step == 5
    )


def test_a_section_data_and_the_optimizer_itself(run: Train, photos: Path) -> None:
    """Another optimizer begins with fresh moments, an average with the values of the state."""
    run(**with_training(steps=2))
    write_pictures(photos, [(64, 64)] * 7, seed=1)
    other = {
        **LONGER,
        "optimizer": {"schedule": "constant", "kind": "muon"},
        "ema": {"decay": 0.5, "saved": "both"},
    }
    keys = ("optimizer", "ema", "data")
    for missing in keys:
        with pytest.raises(RecipeError, match=f"--force-change {missing}"):
            run(resume=Resume(forced=tuple(key for key in keys if key != missing)), **other)
    assert run(resume=Resume(forced=keys), **other).outcome.step == 4


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("optimizer.learning_rte", "Did you mean optimizer.learning_rate?"),
        ("lr", "did not change. What differs from the saved state: optimizer.learning_rate"),
        ("training.steps", "did not change"),
    ],
)
def test_what_did_not_change_cannot_be_insisted_on(run: Train, key: str, said: str) -> None:
    run(**with_training(steps=1))
    with pytest.raises(RecipeError) as caught:
        run(
            resume=Resume(forced=(key,)),
            **{**LONGER, "optimizer": {"schedule": "constant", "learning_rate": 0.5}},
        )
    assert said in str(caught.value)
    with pytest.raises(RecipeError, match="nothing that counts differs"):
        run(resume=Resume(forced=(key,)), **LONGER)


def test_a_run_that_never_began_has_nothing_to_insist_on(run: Train) -> None:
    with pytest.raises(RecipeError, match="has no state yet"):
        run(resume=Resume(forced=("seed",)), **LONGER)


def test_another_config_of_a_part_from_random_weights_is_another_run(
    run: Train, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "other")
    sections: dict[str, Any] = {
        "model": {"model": str(model), "from_scratch": ["denoiser"]},
        "full": {"parts": ["denoiser"]},
    }
    run(training={"steps": 1}, **sections)
    config = model / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_layers": 2}))
    with pytest.raises(RecipeError, match="model: other weights of the denoiser"):
        run(resume=True, training={"steps": 2}, **sections)
    with pytest.raises(
        CheckpointError, match="the state of step 1 does not fit: .* Take back what was insisted on"
    ):
        run(resume=Resume(forced=("model",)), training={"steps": 2}, **sections)


def test_ctrl_c_while_a_resumed_run_is_prepared(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    run(**with_training(steps=2))

    def interrupted(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("velatura.training.run.prepare", interrupted)
    stopped = run(resume=True, **LONGER)
    assert (stopped.outcome.exit_code, stopped.outcome.step) == (75, 2)
    assert "stopped before another step was made after step 2" in stopped.log.texts


@pytest.mark.parametrize("name", ["stop", "save"])
def test_files_ask_a_run_to_stop_and_to_save(run: Train, tmp_path: Path, name: str) -> None:
    straight = run(into="straight", training={"steps": 4})

    def ask(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 2:
            (tmp_path / "runs" / "tiny" / name).write_text("")

    asked = run(training={"steps": 4}, watch=ask)
    saved = [event.step for event in asked.log.of(FileSaved) if event.what == "state"]
    assert not (asked.folder / name).exists()
    if name == "stop":
        assert (asked.outcome.exit_code, asked.outcome.step, saved) == (75, 2, [2])
        asked = run(resume=True, training={"steps": 4})
    else:
        assert saved == [2, 4]
    assert asked.outcome.exit_code == 0
    assert equal(asked.state(), straight.state())


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="a signal of POSIX")
def test_a_signal_saves_and_the_run_goes_on(run: Train) -> None:
    def ask(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 2:
            signal.raise_signal(signal.SIGUSR1)

    asked = run(training={"steps": 4}, watch=ask)
    assert asked.outcome.exit_code == 0
    assert states(asked.folder) == ["000002", "000004"]
    two = asked.folder / "state" / "000002" / "values.safetensors"
    assert not equal(tensors(two), asked.state())


@pytest.mark.parametrize("forced", ["adapter.rank", "adapter"])
def test_what_is_trained_cannot_be_insisted_on(run: Train, forced: str) -> None:
    """It would fail after the model is loaded, and leave a run behind that failed."""
    first = run(**with_training(steps=1))
    kept = (first.folder / "status.json").read_bytes()
    with pytest.raises(RecipeError, match="adapter.rank cannot be insisted on") as caught:
        run(resume=Resume(forced=(forced,)), **LONGER, adapter={"rank": 2})
    assert "--force-change" not in str(caught.value)
    assert (first.folder / "status.json").read_bytes() == kept


def test_how_blocks_are_run_may_change(run: Train) -> None:
    """What a message of too little memory advises can be followed with --resume."""
    straight = run(into="straight", **LONGER)
    run(**with_training(steps=2), stop_after=2)
    resumed = run(resume=True, **with_training(checkpoint_blocks=True, compile=False))
    assert equal(resumed.state(), straight.state())


def test_a_dry_run_tells_where_a_run_would_go_on(run: Train) -> None:
    assert (
        "resume: no saved state yet: it would start at step 0"
        in run(resume=True, dry_run=True, **LONGER).log.texts
    )
    run(**with_training(steps=2))
    assert "resume: after step 2" in run(resume=True, dry_run=True, **LONGER).log.texts


def test_a_key_that_counted_for_an_older_version_changes_nothing(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr("velatura.training.states.identity.FREE", {**FREE, "training": {"steps", "save_every"}})
        run(**with_training(steps=1))
    assert run(resume=True, **with_training(compile=False)).outcome.step == 4


def test_what_may_change_is_told_in_full() -> None:
    """In the message and in the guide; a path counts by what is there."""
    guide = Path(__file__).parents[3] / "docs" / "guides" / "training.md"
    told = (
        guide.read_text("utf-8")
        .partition("What may change on `--resume`:")[2]
        .partition("\n\nAnything else")[0]
    )
    for section, names in FREE.items():
        for name in () if names is True or section == "model" else names:
            assert name in MAY_CHANGE, name
            assert f"`{name}`" in told, name


def test_files_that_a_kill_left_out_are_written_by_the_run_that_goes_on(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between a state and its adapters, of which there are two."""

    def killed(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name.endswith("000002-ema.safetensors"):
            raise KeyboardInterrupt
        write(path, *arguments, **options)

    sections = {**LONGER, "training": {"steps": 4, "save_every": 2}, "ema": {"decay": 0.5}}
    with monkeypatch.context() as patched:
        write = export.write_adapter
        patched.setattr(export, "write_adapter", killed)
        with pytest.raises(KeyboardInterrupt):
            run(**sections)
    resumed = run(resume=True, **sections)
    straight = run(into="straight", **sections)
    made = [sorted(path.name for path in one.folder.glob("adapters/*")) for one in (resumed, straight)]
    assert made[0] == made[1]
    assert len(made[0]) == 4
    again = run(resume=Resume(step=2), **sections)
    saved = [event.step for event in again.log.of(FileSaved) if event.what == "adapter"]
    assert saved == [4, 4]
