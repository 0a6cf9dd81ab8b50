from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from velatura.recipe.starter import KINDS, starter
from velatura.recipe.toml import parse_recipe

Run = Callable[..., Any]


@pytest.mark.parametrize("kind", KINDS)
def test_new_prints_a_starter(velatura: Run, kind: str) -> None:
    ended = velatura("recipe", "new", kind)
    assert ended.code == 0
    assert ended.out == starter(kind)


def test_new_names_the_nearest_kind(velatura: Run) -> None:
    ended = velatura("recipe", "new", "flux_lora")
    assert ended.code == 2
    assert 'did you mean "flux-lora"?' in ended.err


def test_check(velatura: Run, recipe_file: Path) -> None:
    ended = velatura("recipe", "check", recipe_file)
    assert (ended.code, ended.out) == (0, f"{recipe_file}: no mistakes\n")


def test_check_resolved_prints_what_reads_back(velatura: Run, recipe_file: Path) -> None:
    ended = velatura("recipe", "check", recipe_file, "--resolved", "--set", "training.steps=7")
    assert parse_recipe(ended.out).training.steps == 7


def test_check_tells_mistakes(velatura: Run, recipe_file: Path) -> None:
    ended = velatura("recipe", "check", recipe_file, "--set", "training.stps=7")
    assert ended.code == 2
    assert "--set training.stps=7: [training] stps" in ended.err
    assert ended.out == ""


def test_check_json(velatura: Run, recipe_file: Path) -> None:
    good = json.loads(velatura("recipe", "check", recipe_file, "--json").out)
    assert good["valid"] is True
    assert good["recipe"]["adapter"]["rank"] == 16
    ended = velatura("recipe", "check", recipe_file, "--json", "--set", "seed=x")
    assert ended.code == 2
    bad = json.loads(ended.out)
    assert (bad["valid"], bad["mistakes"][0]["place"]) == (False, "seed")


def test_check_json_of_what_is_no_toml(velatura: Run, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("name = \n")
    ended = velatura("recipe", "check", tmp_path / "a.toml", "--json")
    assert ended.code == 2
    assert "line 1" in json.loads(ended.out)["mistakes"][0]["what"]


def test_schema(velatura: Run, tmp_path: Path) -> None:
    printed = json.loads(velatura("recipe", "schema").out)
    assert printed["properties"]["training"]
    assert velatura("recipe", "schema", "--out", tmp_path / "s.json").out == ""
    assert json.loads((tmp_path / "s.json").read_text("utf-8")) == printed


def test_schema_goes_where_it_is_wanted(velatura: Run, tmp_path: Path) -> None:
    assert velatura("recipe", "schema", "--out", tmp_path / "new" / "deep" / "s.json").code == 0
    assert json.loads((tmp_path / "new" / "deep" / "s.json").read_text("utf-8"))["properties"]
    for taken in (tmp_path / "new", tmp_path / "new" / "deep" / "s.json" / "x.json"):
        ended = velatura("recipe", "schema", "--out", taken)
        assert ended.code == 1
        assert f"error: --out {taken} cannot be written: " in ended.err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "a dog --w 100",
            "[previews] prompts[0]\n    width must be a multiple of 16, received 100; nearest: 96 or 112",
        ),
        (
            "a dog --width 96",
            "[previews] prompts[0]\n    prompt line 'a dog --width 96': unknown option --width",
        ),
        ("a dog --g 3.5", "[previews] prompts[0]\n    received guidance 3.5, which would have no effect"),
    ],
)
def test_check_reads_preview_lines(velatura: Run, recipe_file: Path, line: str, expected: str) -> None:
    ended = velatura("recipe", "check", recipe_file, "--set", f'previews.prompts=["{line}"]')
    assert ended.code == 2
    assert expected in ended.err
