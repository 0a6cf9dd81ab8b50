"""Keys that are read again between epochs: when they count, what is said, and what a resumed run has."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from velatura.errors import RecipeError
from velatura.events import Event, SettingChanged, StepFinished
from velatura.recipe.dump import dump_recipe
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import read_recipe
from velatura.training.run import Outcome, train
from velatura.training.states.resuming import Resume

from ..tiny import Log, recipe
from .conftest import equal, tensors

# 6 pictures in 2 sizes: an epoch is 3 steps of batches of 4 and 2, one after the other
SECTIONS: dict[str, Any] = {
    "optimizer": {"schedule": "constant", "learning_rate": 0.01},
    "training": {"steps": 8, "batch_size": 2, "live": True},
}
Start = Callable[..., tuple[Outcome, Log]]


@pytest.fixture
def file(tmp_path: Path, photos: Path, tiny_model: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(dump_recipe(recipe(tmp_path, tiny_model, **SECTIONS)))
    return path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def start(tmp_path: Path, file: Path) -> Start:
    """Train by the file; `at`: what is done after a step."""

    def run(
        into: str,
        *,
        at: dict[int, Callable[[], object]] | None = None,
        sets: tuple[str, ...] = (),
        **options: Any,
    ) -> tuple[Outcome, Log]:
        log = Log()
        changes = (f"output.folder={tmp_path / into}", *sets)

        def act(event: Event) -> None:
            if isinstance(event, StepFinished) and at and event.step in at:
                at[event.step]()

        log.events.listeners.append(act)
        wanted = read_recipe(file, changes)

        def reread() -> Recipe:
            return read_recipe(file, changes).recipe

        return train(wanted.recipe, wanted.base, events=log.events, reread=reread, **options), log

    return run


def rates(log: Log) -> list[float]:
    return [event.learning_rate for event in log.of(StepFinished)]


def test_what_changed_counts_from_the_next_epoch(start: Start, file: Path) -> None:
    outcome, log = start(
        "a",
        at={
            1: lambda: edit(file, "learning_rate = 0.01", "learning_rate = 0.5"),
            5: lambda: edit(file, "steps = 8", "steps = 10"),
        },
    )
    assert rates(log) == [0.01] * 3 + [0.5] * 7
    assert outcome.step == 10
    assert log.of(SettingChanged) == [
        SettingChanged(step=3, key="optimizer.learning_rate", old=0.01, new=0.5, how="live"),
        SettingChanged(step=6, key="training.steps", old=8, new=10, how="live"),
    ]
    assert "from step 4 on: optimizer.learning_rate was 0.01, is 0.5" in log.texts
    assert outcome.folder is not None
    assert "learning_rate = 0.5" in (outcome.folder / "recipe.toml").read_text()


def test_a_resumed_run_has_what_was_in_force(start: Start, file: Path) -> None:
    """Stopped after a change that does not count yet, and after one that counts."""

    def slower() -> None:
        edit(file, "learning_rate = 0.01", "learning_rate = 0.005")

    straight, all_of_it = start("straight", at={2: slower})
    edit(file, "learning_rate = 0.005", "learning_rate = 0.01")

    def stop() -> None:
        signal.raise_signal(signal.SIGINT)

    _, one = start("stopped", at={2: lambda: (slower(), stop())})
    _, two = start("stopped", at={5: stop}, resume=Resume())
    ended, three = start("stopped", resume=Resume())
    assert rates(one) + rates(two) + rates(three) == rates(all_of_it) == [0.01] * 3 + [0.005] * 5
    assert equal(tensors(ended.files[0]), tensors(straight.files[0]))
    assert "optimizer.learning_rate = 0.01 stays in force until the epoch ends" in two.texts
    with pytest.raises(RecipeError, match="optimizer.learning_rate was 0.005, is 0.01"):
        start("stopped", resume=Resume(), sets=("training.live=false", "optimizer.learning_rate=0.01"))


def test_the_steps_in_force_stay_too(start: Start, file: Path) -> None:
    """The learning rate falls by them. Stopped before the epoch ends in which the file got other ones."""
    edit(file, 'schedule = "constant"', 'schedule = "linear"')

    def fewer() -> None:
        edit(file, "steps = 8", "steps = 7")

    def stop() -> None:
        signal.raise_signal(signal.SIGINT)

    _, straight = start("straight", at={4: fewer})
    edit(file, "steps = 7", "steps = 8")
    _, one = start("stopped", at={4: fewer, 5: stop})
    ended, two = start("stopped", resume=Resume())
    assert rates(one) + rates(two) == rates(straight)
    assert len(set(rates(straight))) == ended.step == 7
    assert "training.steps = 8 stays in force until the epoch ends; the recipe has 7" in two.texts


def test_a_run_that_made_all_its_steps_is_made_longer(start: Start, file: Path) -> None:
    assert start("a")[0].step == 8
    edit(file, "steps = 8", "steps = 10")
    assert start("a", resume=Resume())[0].step == 10


def test_set_on_the_command_line_wins(start: Start, file: Path) -> None:
    _, log = start(
        "a",
        sets=("optimizer.learning_rate=0.02",),
        at={1: lambda: edit(file, "learning_rate = 0.01", "learning_rate = 0.5")},
    )
    assert set(rates(log)) == {0.02}


def test_what_cannot_be_taken_over_is_told_once_and_changes_nothing(start: Start, file: Path) -> None:
    whole = file.read_text()
    _, log = start(
        "a",
        at={
            1: lambda: edit(file, "learning_rate = 0.01", "learning_rate = -1.0"),
            5: lambda: file.write_text(whole.replace("rank = 4", "rank = 2").replace("seed = 3", "seed = 4")),
        },
    )
    assert rates(log) == [0.01] * 8
    assert log.texts.count("the recipe cannot be read again, and what was in force stays so") == 1
    assert "learning_rate" in log.texts
    assert "these keys of the recipe changed and are not read again: adapter.rank, seed" in log.texts


def test_what_does_not_go_with_what_stays_is_not_taken_over(
    start: Start, file: Path, tiny_model: Path
) -> None:
    """The file is right as it is, with another key, which is not read again."""

    def write(**optimizer: Any) -> None:
        sections = {**SECTIONS, "full": {}, "optimizer": {**SECTIONS["optimizer"], **optimizer}}
        file.write_text(dump_recipe(recipe(file.parent, tiny_model, **sections)))

    write(fused_backward=True, clip=0.0)
    outcome, log = start("a", at={1: lambda: write(clip=1.0)})
    assert outcome.exit_code == 0
    assert outcome.folder is not None
    assert "optimizer.clip: not taken over, what was in force stays so" in log.texts
    assert "optimizer.clip was" not in log.texts
    read_recipe(outcome.folder / "recipe.toml")


def test_fewer_steps_than_are_made_end_the_run(start: Start, file: Path) -> None:
    outcome, log = start("a", at={5: lambda: edit(file, "steps = 8", "steps = 4")})
    assert (outcome.exit_code, outcome.step) == (0, 6)
    assert "training.steps = 4: 6 are made already, and they stay" in log.texts
    assert outcome.files[0].name == "tiny-000006.safetensors"


def test_the_steps_stay_where_a_warm_up_of_tags_is_a_share_of_them(start: Start, file: Path) -> None:
    outcome, log = start(
        "a",
        sets=("data.0.tag_warmup_steps=0.5", 'data.0.tag_separator=" "'),
        at={1: lambda: edit(file, "steps = 8", "steps = 10")},
    )
    assert outcome.step == 8
    assert "changed and are not read again: training.steps" in log.texts


def test_a_recipe_without_a_file_cannot_be_live(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    with pytest.raises(RecipeError, match="has no file that could be read again"):
        train(recipe(tmp_path, tiny_model, **SECTIONS), tmp_path, events=Log().events)
