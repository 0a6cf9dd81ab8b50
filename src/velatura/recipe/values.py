"""Values of a recipe by their keys, as `--set` names them: "memory.streamed"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from velatura.recipe.recipe import Recipe


def flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by their keys; a list of tables is one value."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def value_at(recipe: Recipe, key: str) -> Any:
    """The value at "section.key"; None where the recipe has no such section."""
    section, name = key.split(".")
    return getattr(getattr(recipe, section), name, None)


def is_stated(recipe: Recipe, key: str) -> bool:
    """Whether the recipe's author gave a value, also where it is the default."""
    section, name = key.split(".")
    return name in getattr(recipe, section).model_fields_set


def default_at(recipe: Recipe, key: str) -> Any:
    """The value at "section.key" of a recipe that does not state it."""
    section, name = key.split(".")
    return type(getattr(recipe, section)).model_fields[name].default


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """A recipe with other values at "section.key"."""
    for key, value in values.items():
        section, name = key.split(".")
        changed = getattr(recipe, section).model_copy(update={name: value})
        recipe = recipe.model_copy(update={section: changed})
    return recipe
