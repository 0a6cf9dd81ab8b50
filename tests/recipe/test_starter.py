from __future__ import annotations

import re

import pytest

from velatura.errors import RecipeError
from velatura.recipe.recipe import Recipe
from velatura.recipe.starter import KINDS, starter
from velatura.recipe.toml import parse_recipe


@pytest.mark.parametrize("kind", KINDS)
def test_starters_are_valid_and_say_how_to_run_them(kind: str) -> None:
    text = starter(kind)
    assert text.startswith(f"# velatura train {kind}.toml\n")
    recipe = parse_recipe(text)
    assert (recipe.full is not None) == kind.endswith("full")
    assert max(len(line) for line in text.splitlines()) <= 120


@pytest.mark.parametrize("kind", KINDS)
def test_a_starters_commented_keys_are_valid_too(kind: str) -> None:
    text = re.sub(r"^# (\w+ = )", r"\1", starter(kind), flags=re.MULTILINE)
    assert isinstance(parse_recipe(text), Recipe)


@pytest.mark.parametrize("kind", KINDS)
def test_most_keys_are_explained(kind: str) -> None:
    keys = [line for line in starter(kind).splitlines() if re.match(r"\w+ = ", line)]
    explained = [line for line in keys if "#" in line]
    assert len(explained) >= 0.6 * len(keys)


def test_unknown_kind() -> None:
    with pytest.raises(RecipeError, match='allowed: flux-lora, .*did you mean "flux-lora"'):
        starter("flux_lora")
