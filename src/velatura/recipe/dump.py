"""A recipe as TOML: complete, with every default filled in, and read back to the same recipe exactly."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

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


def toml_value(value: Any) -> str:
    """A bool, number, text, or a list or table of these as TOML."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)  # shortest text that reads back the same; inf and nan are TOML's words too
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return _list([toml_value(entry) for entry in value])
        case dict():
            entries = (f"{_key(key)} = {toml_value(entry)}" for key, entry in value.items())
            return f"{{ {', '.join(entries)} }}" if value else "{}"
        case _:
            raise TypeError(f"no TOML for {type(value).__name__}")


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


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)


def _list(entries: list[str]) -> str:
    line = f"[{', '.join(entries)}]"
    return line if len(line) <= _WIDTH else "[\n" + "".join(f"    {entry},\n" for entry in entries) + "]"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")
