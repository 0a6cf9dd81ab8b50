"""Values by their keys, what counts as stated, and a budget in its short form."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from velatura.recipe.dump import dump_recipe
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import parse_recipe
from velatura.recipe.values import is_stated, value_at, with_values


def test_a_default_that_is_written_down_is_stated(smallest: str) -> None:
    recipe = parse_recipe(f'{smallest}[memory]\nweights = "full"\n')
    assert is_stated(recipe, "memory.weights")
    assert not is_stated(recipe, "memory.streamed")
    assert is_stated(parse_recipe(smallest, sets=["memory.streamed=0"]), "memory.streamed")


def test_values_are_changed_by_their_keys(smallest: str) -> None:
    recipe = with_values(parse_recipe(smallest), {"memory.streamed": 0.5, "training.steps": 3})
    assert (value_at(recipe, "memory.streamed"), value_at(recipe, "training.steps")) == (0.5, 3)
    assert value_at(recipe, "full.weights") is None


@pytest.mark.parametrize(
    ("line", "sets", "budget"),
    [
        ('memory = "24GiB"', [], "24GiB"),
        ('memory = "24GiB"', ["memory=16GiB"], "16GiB"),
        ('memory = "24GiB"', ["memory.weights=fp8"], "24GiB"),
        ("", ["memory=16GiB"], "16GiB"),
        ("", ["memory=16"], "16"),
    ],
)
def test_memory_may_be_a_size(smallest: str, line: str, sets: list[str], budget: str) -> None:
    recipe = parse_recipe(f"{line}\n{smallest}", sets=sets)
    assert recipe.memory.budget == budget
    assert ("memory.weights=fp8" in sets) == (recipe.memory.weights == "fp8")
    assert f'[memory]\nbudget = "{budget}"' in dump_recipe(recipe)
    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_a_budget_leaves_the_rest_of_its_section_alone(smallest: str) -> None:
    recipe = parse_recipe(f"{smallest}[memory]\nstreamed = 0.5\n", sets=["memory=16GiB"])
    assert (recipe.memory.budget, recipe.memory.streamed) == ("16GiB", 0.5)


def test_a_budget_that_is_no_size(smallest: str, refusal: Callable[..., str]) -> None:
    message = refusal(f'memory = "lots"\n{smallest}')
    assert "[memory] budget\n    received the size 'lots'; allowed: a number above 0 with GiB" in message


def test_a_recipe_from_plain_tables_may_have_it_too(smallest: str) -> None:
    table = parse_recipe(smallest).model_dump()
    assert Recipe.model_validate({**table, "memory": "24GiB"}).memory.budget == "24GiB"
