"""A recipe with its levers in all positions that go together, the cheapest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from velatura.planning.devices import Device
from velatura.planning.levers import LEVERS, Option
from velatura.recipe.consistency import require_consistent
from velatura.recipe.problems import Inconsistent
from velatura.recipe.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recipe with some settings changed."""

    recipe: Recipe
    sets: tuple[str, ...]  # `section.key=value`, as --set takes them


def candidates(recipe: Recipe, device: Device) -> list[Candidate]:
    """All combinations of options that go together; the first is the recipe itself, the last the most frugal."""
    levers = [lever(recipe, device) for lever in LEVERS]
    combined = sorted(product(*levers), key=lambda options: prod(option.cost for option in options))
    made = (changed(recipe, _together(options)) for options in combined)
    return [candidate for candidate in made if _consistent(candidate.recipe)]


def changed(recipe: Recipe, sets: Mapping[str, Any]) -> Candidate:
    """The recipe with other values; `sets` of the candidate names those that differ."""
    differing = {key: value for key, value in sets.items() if _at(recipe, key) != value}
    sections: dict[str, dict[str, Any]] = {}
    for key, value in differing.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    update = {name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()}
    return Candidate(
        recipe=recipe.model_copy(update=update),
        sets=tuple(f"{key}={_as_toml(value)}" for key, value in differing.items()),
    )


def _consistent(recipe: Recipe) -> bool:
    try:
        require_consistent(recipe)
    except Inconsistent:
        return False
    return True


def _together(options: Sequence[Option]) -> dict[str, Any]:
    return {key: value for option in options for key, value in option.sets.items()}


def _at(recipe: Recipe, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(recipe, section), name)


def _as_toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
