"""`--set section.key=value`: changes to a recipe from the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from velatura.recipe.lines import KeyPath
from velatura.recipe.plain_toml import read_toml
from velatura.recipe.problems import Problem, shown


@dataclass(frozen=True, kw_only=True)
class Override:
    """One `--set`: where, what, and the text as it was typed."""

    path: KeyPath
    value: Any
    typed: str  # the value before it was read as TOML
    option: str  # all of "section.key=value"


class BadOverride(ValueError):
    """A `--set` that cannot be read or placed; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


def parse_override(option: str) -> Override:
    """Read `section.key=value`: the value in TOML's syntax, or a bare text. Raises BadOverride."""
    keys, equals, typed = option.partition("=")
    parts = [part.strip() for part in keys.split(".")]
    if not equals or not all(parts):
        what = f'received --set "{shown(option)}"; allowed: section.key=value, for example optimizer.learning_rate=2e-4'
        raise BadOverride(Problem(path=(), what=what))
    path = tuple(int(part) if part.isdecimal() and len(part) < 10 else part for part in parts)
    if path == ("memory",):  # `memory = "24GiB"` is short for its budget
        path = ("memory", "budget")
    return Override(path=path, value=_value(path, typed.strip()), typed=typed.strip(), option=option)


def apply_override(table: dict[str, Any], override: Override) -> None:
    """Set the value inside a raw recipe; sections that are not there yet are made. Raises BadOverride."""
    holder: Any = table
    for depth, part in enumerate(override.path[:-1], start=1):
        if isinstance(holder, dict) and isinstance(part, str):
            holder = holder.setdefault(part, {})
        else:
            holder = _entry(holder, part, override.path[:depth])
    last = override.path[-1]
    if isinstance(holder, dict) and isinstance(last, str):
        holder[last] = override.value
    else:
        _entry(holder, last, override.path)
        holder[last] = override.value


def apply_texts(table: dict[str, Any], overrides: Sequence[Override], texts: set[KeyPath]) -> bool:
    """Where the schema wants a text, take what was typed as one: `--set name=7`. True when anything changed."""
    changed = [o for o in overrides if o.path in texts and not isinstance(o.value, str)]
    for override in changed:
        typed = Override(
            path=override.path, value=override.typed, typed=override.typed, option=override.option
        )
        apply_override(table, typed)
    return bool(changed)


def _value(path: KeyPath, typed: str) -> Any:
    try:
        value = read_toml(f"value = {typed}")["value"]
    except tomllib.TOMLDecodeError as error:
        if typed[:1] in ("[", "{", '"', "'"):
            what = f"received {shown(typed)}, which is not a TOML value: {error}"
            raise BadOverride(Problem(path=path, what=what)) from error
        return typed
    except ValueError as error:
        what = f"received {shown(typed)}, which is no value of a recipe: {error}"
        raise BadOverride(Problem(path=path, what=what)) from error
    return typed if isinstance(value, date | time | datetime) else value


def _entry(holder: Any, part: str | int, path: KeyPath) -> Any:
    """An entry of a list that is there; anything else has no such place."""
    if not isinstance(holder, list):
        kind = "a section" if isinstance(holder, dict) else "a single value"
        raise BadOverride(Problem(path=path, what=f"{path[-1]} points into {kind}, which has no such entry"))
    if not isinstance(part, int):
        hint = f"for example {'.'.join(map(str, (*path[:-1], 0, part)))}=…"
        raise BadOverride(
            Problem(path=path, what=f"{path[-2]} is a list: say which entry, from 0", hint=hint)
        )
    if part >= len(holder):
        count = f"0 to {len(holder) - 1}" if holder else "none, the list is empty"
        raise BadOverride(Problem(path=path, what=f"received entry {part}; allowed: {count}"))
    return holder[part]
