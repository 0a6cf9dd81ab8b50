"""TOML as plain data, read and written, within the limits that TOML itself has and those of what people write."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

_WIDTH = 100
_DEEPEST = 32  # tables and lists inside each other
_INTEGERS = range(-(2**63), 2**63)  # what TOML promises; Python reads on, and then cannot write them out
_SEGMENT = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*"""
_LONG_KEY = re.compile(
    rf"(?:^|[\[{{,])[ \t]*(?:{_SEGMENT}){{{_DEEPEST}}}", re.MULTILINE
)  # the parser is slow in them


def read_toml(text: str) -> dict[str, Any]:
    """The table that a TOML text is. Raises ValueError: `tomllib.TOMLDecodeError` where the text is no TOML."""
    too_deep = ValueError(f"more than {_DEEPEST} tables and lists inside each other")
    if _LONG_KEY.search(text):
        raise too_deep
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise too_deep from None
    waiting: list[tuple[Any, int]] = [(table, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _DEEPEST:
            raise too_deep
        if isinstance(value, int) and value not in _INTEGERS:
            raise ValueError("an integer of more than 64 bits")
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(entry, depth + 1) for entry in inside]
    return table


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


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)


def _list(entries: list[str]) -> str:
    line = f"[{', '.join(entries)}]"
    return line if len(line) <= _WIDTH else "[\n" + "".join(f"    {entry},\n" for entry in entries) + "]"
