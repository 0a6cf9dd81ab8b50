"""A feature of recipes, and a pair of them that does not go together: what the table of `capabilities` is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from velatura.recipe.plain_toml import toml_value

if TYPE_CHECKING:
    from velatura.recipe.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Feature:
    """Something that a recipe may ask for: a section that is there, or a key with certain values."""

    name: str  # in the reference
    key: str  # "memory.streamed", "full"
    of: Callable[[Any], bool] = bool  # whether a value of the key asks for it
    beside: str | None = None  # a section that must be there too
    example: str = ""  # how --set asks for it, where no section does; for tests
    others: tuple[str, ...] = ()  # and with other values of the key

    def used(self, recipe: Recipe) -> bool:
        """Whether a recipe asks for it."""
        if self.beside is not None and getattr(recipe, self.beside) is None:
            return False
        value = self.value(recipe)
        return value is not None if "." not in self.key else value is not None and self.of(value)

    def value(self, recipe: Recipe) -> Any:
        """Of its key; None where the recipe has no such section or key."""
        found: Any = recipe
        for part in self.key.split("."):
            found = getattr(found, part, None)
        return found

    def said(self, recipe: Recipe, section: str) -> str:
        """As the recipe has it, for a message about a key of `section`."""
        if "." not in self.key:
            return f"[{self.key}]"
        home, name = self.key.split(".")
        return f"{name if home == section else self.key} = {self.shown(recipe)}"

    def shown(self, recipe: Recipe) -> str:
        """Its value, as people write it."""
        value = self.value(recipe)
        return f"{value:g}" if isinstance(value, float) else toml_value(value)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Two features that do not go together; the mistake is said to be the first one's."""

    first: Feature
    second: Feature
    reason: str
    hint: str = ""
