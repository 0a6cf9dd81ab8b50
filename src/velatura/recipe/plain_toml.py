"""TOML as plain data, within the limits that TOML itself has and those of what people write."""

from __future__ import annotations

import tomllib
from typing import Any

_DEEPEST = 32  # tables and lists inside each other
_INTEGERS = range(-(2**63), 2**63)  # what TOML promises; Python reads on, and then cannot write them out


def read_toml(text: str) -> dict[str, Any]:
    """The table that a TOML text is. Raises ValueError: `tomllib.TOMLDecodeError` where the text is no TOML."""
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"more than {_DEEPEST} tables and lists inside each other") from None
    waiting: list[tuple[Any, int]] = [(table, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} tables and lists inside each other")
        if isinstance(value, int) and value not in _INTEGERS:
            raise ValueError("an integer of more than 64 bits")
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(entry, depth + 1) for entry in inside]
    return table
