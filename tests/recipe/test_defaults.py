"""Kinds of data that need not be named."""

from __future__ import annotations

from typing import Any

import pytest

from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.recipe import Recipe

REST: dict[str, Any] = {
    "name": "a",
    "model": {"family": "flux", "model": "pocket/flux"},
    "objective": {"kind": "flow"},
    "adapter": {},
}


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ({"folder": "x"}, "folder"),
        ({"file": "x.csv"}, "table"),
        ({"file": "X.Parquet", "folder": "y"}, "table"),
        ({"kind": "table", "file": "x.dat"}, "table"),
    ],
)
def test_kinds_are_told_by_their_keys(table: dict[str, Any], kind: str) -> None:
    recipe = Recipe.model_validate(REST | {"data": [table]})
    assert recipe.data[0].kind == kind
    assert "kind" not in table or table["kind"] == kind  # the caller's table is left as it was


def test_sections_made_in_python_are_taken_as_they_are() -> None:
    section = FolderData(folder="x")
    recipe = Recipe.model_validate(REST | {"data": [section, {"file": "x.jsonl"}]})
    assert recipe.data[0] == section
    assert [one.kind for one in recipe.data] == ["folder", "table"]
