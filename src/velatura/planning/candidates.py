"""A recipe with its levers in all positions that go together."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

from velatura.planning.devices import Device
from velatura.planning.levers import LEVERS, Option
from velatura.recipe.consistency import is_consistent
from velatura.recipe.recipe import Recipe
from velatura.recipe.values import value_at, with_values


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recipe with some settings changed; `slower` and `loss`: the factors of all its options (see `Option`)."""

    recipe: Recipe
    changes: Mapping[str, Any]  # "section.key": value
    slower: float = 1.0
    loss: float = 1.0

    @property
    def sets(self) -> tuple[str, ...]:
        """As --set takes them: `section.key=value`."""
        return tuple(f"{key}={_as_toml(value)}" for key, value in self.changes.items())


def candidates(recipe: Recipe, device: Device, keys: Container[str] | None = None) -> list[Candidate]:
    """All combinations of options that go together, the cheapest first.

    The first is the recipe itself, the last the most frugal; for the order in time see `Pace`.

    `keys`: those that may change, by default all.
    """
    levers = [_allowed(lever(recipe, device), keys) for lever in LEVERS]
    made = (_combined(recipe, options) for options in product(*levers))
    possible = [candidate for candidate in made if is_consistent(candidate.recipe)]
    return sorted(possible, key=lambda candidate: candidate.slower * candidate.loss)


def changed(recipe: Recipe, sets: Mapping[str, Any]) -> Candidate:
    """The recipe with other values; `sets` of the candidate names those that differ."""
    differing = {key: value for key, value in sets.items() if value_at(recipe, key) != value}
    return Candidate(recipe=with_values(recipe, differing), changes=differing)


def _allowed(options: Sequence[Option], keys: Container[str] | None) -> list[Option]:
    """The recipe's own values, and of the others those that change no other key."""
    own, *others = options
    return [own, *(option for option in others if keys is None or all(key in keys for key in option.sets))]


def _combined(recipe: Recipe, options: Sequence[Option]) -> Candidate:
    sets = {key: value for option in options for key, value in option.sets.items()}
    slower, loss = (
        prod(factors) for factors in zip(*((one.slower, one.loss) for one in options), strict=True)
    )
    return replace(changed(recipe, sets), slower=slower, loss=loss)


def _as_toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
