"""A recipe as TOML: complete, with every default filled in, and read back to the same recipe exactly."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from velatura.recipe.plain_toml import toml_value
from velatura.recipe.recipe import Recipe
from velatura.recipe.schema import allowed, ordered_keys, sections_in
from velatura.recipe.section import Section

_WIDTH = 100


def dump_recipe(recipe: Recipe, *, comments: bool = False) -> str:
    """The whole recipe as TOML text. `comments` puts each key's meaning and allowed values above it.

    A key without a value is left out: its absence says the same.
    """
    scalars = [name for name, field in Recipe.model_fields.items() if not sections_in(field.annotation)]
    blocks = ["\n".join(_keys(recipe, scalars, comments))]
    for name in Recipe.model_fields:
        value = getattr(recipe, name)
        if isinstance(value, list):
            blocks += [_section(f"[[{name}]]", entry, comments) for entry in value]
        elif isinstance(value, Section):
            blocks.append(_section(f"[{name}]", value, comments))
    return "\n\n".join(blocks) + "\n"


def _section(header: str, section: Section, comments: bool) -> str:
    about = _comment((type(section).__doc__ or "").split("\n")[0]) if comments else []
    return "\n".join([*about, header, *_keys(section, ordered_keys(type(section)), comments)])


def _keys(section: Section, names: list[str], comments: bool) -> Iterator[str]:
    for name in names:
        value = getattr(section, name)
        if value is None:
            continue
        if comments:
            field = type(section).model_fields[name]
            yield from _comment(f"{field.description or name} ({allowed(field)})")
        yield f"{name} = {toml_value(value)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")
