"""The smallest recipe that is valid, and what is wrong with one that is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from velatura.recipe.problems import InvalidRecipe
from velatura.recipe.toml import parse_recipe

SMALLEST = """\
name = "a"
[model]
model = "pocket/flux"
[[data]]
folder = "photos"
[adapter]
"""


@pytest.fixture
def smallest() -> str:
    return SMALLEST


@pytest.fixture
def refusal() -> Callable[..., str]:
    """The message with which a recipe is refused."""

    def of(text: str, *sets: str) -> str:
        with pytest.raises(InvalidRecipe) as caught:
            parse_recipe(text, "x.toml", sets)
        return str(caught.value)

    return of
