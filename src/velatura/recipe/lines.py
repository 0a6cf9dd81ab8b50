"""Where each key of a TOML text stands, so that a message can name the line. `tomllib` keeps no positions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

KeyPath = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(
    r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
# what may open, close or hide brackets: strings (the long kinds first), comments, brackets
_TOKEN = re.compile(
    r"\"\"\".*?(?<!\\)\"\"\"|'''.*?'''|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'|\#[^\n]*|[\[\]{}]", re.DOTALL
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line numbers, from 1, of all headers and keys; `("data", 1, "folder")` is the second `[[data]]`'s folder.

    Keys inside inline tables are not listed: their table is. Text that is not TOML gives what can be told.
    """
    lines: dict[KeyPath, int] = {}
    tables: dict[KeyPath, int] = {}  # how often a [[header]] was seen
    prefix: KeyPath = ()
    for number, line in _statements(text):
        if header := _HEADER.match(line):
            name = _parts(header[2])
            if header[1] == "[[":
                tables[name] = tables.get(name, 0) + 1
                lines.setdefault(name, number)
                prefix = (*name, tables[name] - 1)
            else:
                prefix = name
            lines[prefix] = number
        elif key := _KEY.match(line):
            lines[prefix + _parts(key[1])] = number
    return lines


def nearest_line(lines: Mapping[KeyPath, int], path: KeyPath) -> int | None:
    """The line of a key, else of the closest thing around it."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


def _parts(dotted: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Lines that begin a statement: not inside a multi-line string or array."""
    continued = _continued_lines(text)
    for number, line in enumerate(text.split("\n"), start=1):
        if number not in continued:
            yield number, line


def _continued_lines(text: str) -> set[int]:
    """Numbers of the lines that continue what an earlier line began."""
    inside: set[int] = set()
    depth, opened = 0, 0
    for token in _TOKEN.finditer(text):
        line = text.count("\n", 0, token.start()) + 1
        span = token[0].count("\n")
        inside.update(range(line + 1, line + span + 1))
        if token[0] in "[{":
            depth += 1
            opened = line if depth == 1 else opened
        elif token[0] in "]}" and depth > 0:
            depth -= 1
            inside.update(range(opened + 1, line + 1) if depth == 0 else ())
    return inside
