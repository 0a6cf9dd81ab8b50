from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from velatura.events import Events
from velatura.recipe.recipe import Recipe
from velatura.training.live import Reread
from velatura.training.planned import Planner
from velatura.training.states.resuming import Resume

Run = Callable[..., Any]


@dataclass
class Outcome:
    exit_code: int


@dataclass
class FakeTraining:
    """Stands for `velatura.training.run`: what it was called with, and how it ends."""

    exit_code: int = 0
    recipe: Recipe | None = None
    base: Path | None = None
    reread: Reread | None = None
    planner: Planner | None = None
    resume: Resume | None = None
    dry_run: bool = False

    def train(
        self,
        recipe: Recipe,
        base: Path,
        *,
        resume: Resume | None,
        dry_run: bool,
        events: Events,
        reread: Reread,
        planner: Planner,
    ) -> Outcome:
        self.reread, self.planner = reread, planner
        self.recipe, self.base, self.resume, self.dry_run = recipe, base, resume, dry_run
        events.notice("training")
        return Outcome(exit_code=self.exit_code)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    fake = FakeTraining()
    module = ModuleType("velatura.training.run")
    module.train = fake.train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "velatura.training.run", module)
    return fake


def test_what_the_training_is_given(velatura: Run, training: FakeTraining, recipe_file: Path) -> None:
    ended = velatura(
        "train", recipe_file, "--set", "training.steps=7", "--set", "seed=3", "--resume", "--dry-run"
    )
    assert ended.code == 0
    assert training.recipe is not None
    assert (training.recipe.training.steps, training.recipe.seed) == (7, 3)
    assert training.base == recipe_file.parent
    assert (training.resume, training.dry_run) == (Resume(), True)
    assert "training" in ended.out


@pytest.mark.parametrize("code", [0, 75, 1])
def test_the_outcome_is_the_exit_code(
    velatura: Run, training: FakeTraining, recipe_file: Path, code: int
) -> None:
    training.exit_code = code
    assert velatura("train", recipe_file).code == code


def test_a_missing_folder_is_refused_before_training(
    velatura: Run, training: FakeTraining, recipe_file: Path
) -> None:
    (recipe_file.parent / "photos").rmdir()
    ended = velatura("train", recipe_file)
    assert ended.code == 2
    assert f"no such folder: {recipe_file.parent}/photos" in ended.err
    assert training.recipe is None


def test_how_a_run_goes_on(velatura: Run, training: FakeTraining, recipe_file: Path) -> None:
    for options, expected in (
        ([], None),
        (["--resume"], Resume()),
        (["--resume-at", "200"], Resume(step=200)),
        (["--set", "training.resume=latest", "--force-change", "data"], Resume(forced=("data",))),
        (["--resume", "--force-change", "ema", "--force-change", "seed"], Resume(forced=("ema", "seed"))),
    ):
        assert velatura("train", recipe_file, *options).code == 0
        assert training.resume == expected
    refused = velatura("train", recipe_file, "--force-change", "data")
    assert refused.code == 2
    assert "--force-change is for a run that is resumed" in refused.err


def test_weights_to_begin_with(
    velatura: Run, training: FakeTraining, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They become a key of the recipe; a relative path starts where the command is called."""
    folder = recipe_file.parent / "elsewhere"
    folder.mkdir()
    (folder / "old.safetensors").write_text("")
    monkeypatch.chdir(folder)
    assert velatura("train", recipe_file, "--init-from", "old.safetensors").code == 0
    assert training.recipe is not None
    assert training.recipe.adapter is not None
    assert training.recipe.adapter.init_from == str(folder / "old.safetensors")
    refused = velatura("train", recipe_file, "--init-from", "none.safetensors")
    assert refused.code == 2
    assert f"no such file or folder: {folder}/none.safetensors" in refused.err
