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
    options: tuple[bool, bool] = (False, False)

    def train(self, recipe: Recipe, base: Path, *, resume: bool, dry_run: bool, events: Events) -> Outcome:
        self.recipe, self.base, self.options = recipe, base, (resume, dry_run)
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
    assert training.options == (True, True)
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
