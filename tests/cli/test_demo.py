"""Where the demo goes, and that it leaves alone what it did not make."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from velatura.cli import demo as command
from velatura.cli.demo import MARK, begin, recipe_text
from velatura.errors import RecipeError

Run = Callable[..., Any]


def test_a_new_or_empty_folder_is_taken_and_gone_on_in(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        assert begin(tmp_path / name) == tmp_path / name
        (tmp_path / name / "photos").mkdir()
        assert begin(tmp_path / name) == tmp_path / name


def test_what_another_model_made_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begin(tmp_path / "demo")
    kept = (folder / MARK).read_text()
    monkeypatch.setattr(command, "_made_with", lambda: "another model")
    assert begin(folder) == tmp_path / "demo-2"
    assert begin(folder) == tmp_path / "demo-2"  # and gone on in
    assert (folder / MARK).read_text() == kept
    monkeypatch.undo()
    assert begin(folder) == folder


def test_what_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.toml").write_text("mine")
    (tmp_path / "mine-2").write_text("a file")
    (tmp_path / "mine-3").mkdir()
    (tmp_path / "mine-3" / MARK).write_bytes(b"no text: \xff")
    assert begin(tmp_path / "mine") == tmp_path / "mine-4"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize("name", ['a "quoted" one', "two\nlines", "naïve \\ 雪だるま", "it's"])
def test_its_recipe_is_valid_toml_whatever_the_folder_is_called(tmp_path: Path, name: str) -> None:
    folder = begin(tmp_path / name)
    table = tomllib.loads(recipe_text(folder, steps=7))
    assert table["output"]["folder"] == str(folder / "runs")
    assert (table["training"]["steps"], table["previews"]["every"]) == (7, 2)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is no Unicode text"):
        begin(tmp_path / "snow\udcff")


def test_a_demo_over_that_of_another_model_trains_anew(
    velatura: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, bool]] = []

    def train(recipe: Any, base: Path, *, resume: Any, **_: Any) -> Any:
        seen.append((base, resume is not None))
        raise RecipeError("enough")

    monkeypatch.setattr("velatura.training.run.train", train)
    monkeypatch.setattr(
        "velatura.pocket.dataset.concept_dataset", lambda folder, **_: folder.mkdir(exist_ok=True)
    )
    for made_with in ("one model", "one model", "another"):
        monkeypatch.setattr(command, "_made_with", lambda said=made_with: said)
        assert velatura("demo", "--folder", tmp_path / "demo").err == "error: enough\n"
        run = seen[-1][0] / "runs" / "snowman"
        run.mkdir(parents=True, exist_ok=True)
        (run / "recipe.toml").write_text("")
    assert seen == [(tmp_path / "demo", False), (tmp_path / "demo", True), (tmp_path / "demo-2", False)]
