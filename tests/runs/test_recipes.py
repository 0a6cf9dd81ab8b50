from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from velatura.runs.recipes import Difference, differences, in_short, read_recipe_table, texts_by_key

from .folders import RECIPE


def test_texts_by_key() -> None:
    table = {
        "a": 1,
        "b": {"c": [1, "x"], "d": {"e": True}},
        "data": [{"f": "g"}, {"f": 0.5}],
        "h": [],
        "i": "ü",
    }
    assert texts_by_key(table) == {
        "a": "1", "b.c": '[1, "x"]', "b.d.e": "true", "data[0].f": "g", "data[1].f": "0.5", "h": "[]", "i": "ü",
    }  # fmt: skip


def test_only_what_differs() -> None:
    one = {"name": "a", "seed": 1, "model": {"family": "flux"}, "data": [{"folder": "x"}]}
    two = {"name": "b", "seed": 1, "model": {"family": "sd1"}, "data": [{"folder": "x"}, {"folder": "y"}]}
    assert differences([one, two, one]) == [
        Difference(key="model.family", values=("flux", "sd1", "flux")),
        Difference(key="data[1].folder", values=(None, "y", None)),
    ]
    assert differences([one, {**one, "name": "z"}]) == []


def test_in_short() -> None:
    assert in_short(tomllib.loads(RECIPE)) == [
        ("model", "flux pocket/flux"),
        ("data", "photos"),
        ("trained", "lora, rank 16, alpha 16.0"),
        ("objective", "flow"),
        ("optimizer", "adamw, learning_rate 0.0001, schedule cosine"),
        ("training", "steps 40, batch_size 2, precision auto, seed 1"),
    ]
    assert ("trained", "denoiser, text_encoders") in in_short(
        {"full": {"parts": ["denoiser", "text_encoders"]}}
    )


@pytest.mark.parametrize(
    "text", [None, "name = ", "\x00", "model = 3\ndata = 'x'", "[adapter]\nkind = [[1]]"]
)
def test_strange_recipes_are_no_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "recipe.toml").write_text(text)
    table = read_recipe_table(tmp_path / "recipe.toml")
    assert isinstance(in_short(table), list)
    assert differences([table, {}]) is not None
