"""YAML as plain data: texts, lists and tables. No tag is obeyed, so nothing that a file says can run code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from velatura.data.sources.lookup import UnusableError
from velatura.errors import DataError

Plain = None | str | list["Plain"] | dict[str, "Plain"]

_LOADER = getattr(
    yaml, "CBaseLoader", yaml.BaseLoader
)  # knows neither tags nor types; the C one is ten times faster
_PREFIX = "tag:yaml.org,2002:"
_PLAIN_TAGS = {None, "!", *(_PREFIX + name for name in ("str", "int", "float", "bool", "null", "seq", "map"))}
_NOTHING = {"", "~", "null", "Null", "NULL"}
_DEEPEST = 20
_LARGEST = 2**20  # characters, with aliases written out


def read_yaml(text: str, name: str) -> Plain:
    """The data of one YAML document; numbers and truth values stay texts, as they are written.

    What an alias stands for counts as if it were written out, so that a few lines cannot become gigabytes or a depth
    without end. Raises DataError for a tag that would make something other than plain data (some run code), naming the
    file and the line; UnusableError for anything else that is wrong, naming the line.
    """
    if len(text) > _LARGEST:
        raise UnusableError(f"has {len(text)} characters; allowed are {_LARGEST}")
    try:
        return _Document(text, name).value()
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise UnusableError(f"is not YAML{line}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UnusableError(f"is not YAML: {' '.join(str(error).split())}") from None


@dataclass(frozen=True, slots=True)
class _Anchor:
    """What an alias stands for, and what it adds where it stands."""

    value: Plain
    size: int  # characters
    height: int  # levels of lists and tables


class _Document:
    """A document on its way from the parser's events to data."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._events = yaml.parse(text, Loader=_LOADER)
        self._anchors: dict[str, _Anchor] = {}
        self._size = 0  # of what was read, in characters
        self._deepest = 0  # of what was read since this was last set back

    def value(self) -> Plain:
        """The whole document; None where there is none."""
        next(self._events)  # the stream begins
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), 1)
        next(self._events)  # the document ends
        if not isinstance(next(self._events), yaml.StreamEndEvent):
            raise UnusableError("holds more than one YAML document")
        return value

    def _value(self, event: Any, depth: int) -> Plain:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, line, depth)
        if event.tag not in _PLAIN_TAGS:
            raise DataError(
                f"{self._name}, line {line}: the tag '{event.tag.replace(_PREFIX, '!!')}' is refused, for tags can "
                "make a YAML file run code, and captions need none. Remove it, and ask where the file is from."
            )
        above, self._deepest = self._deepest, 0
        before = self._size
        self._count(1, depth, line)
        if isinstance(event, yaml.ScalarEvent):
            self._count(len(event.value), depth, line)
            value: Plain = None if event.implicit[0] and event.value in _NOTHING else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._list(depth)
        else:
            value = self._table(depth)
        if event.anchor:
            height = self._deepest - depth
            self._anchors[event.anchor] = _Anchor(value, self._size - before, height)
        self._deepest = max(self._deepest, above)
        return value

    def _alias(self, name: str, line: int, depth: int) -> Plain:
        if name not in self._anchors:
            raise UnusableError(f"line {line}: '*{name}' stands for nothing that was named before")
        anchor = self._anchors[name]
        self._count(anchor.size, depth + anchor.height, line)
        return anchor.value

    def _count(self, size: int, depth: int, line: int) -> None:
        """Keep account of what was read."""
        self._size += size
        self._deepest = max(self._deepest, depth)
        if depth > _DEEPEST:
            raise UnusableError(f"line {line}: more than {_DEEPEST} levels of lists and tables")
        if self._size > _LARGEST:
            raise UnusableError(f"line {line}: more than {_LARGEST} characters, with aliases written out")

    def _list(self, depth: int) -> list[Plain]:
        found = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            found.append(self._value(event, depth + 1))
        return found

    def _table(self, depth: int) -> dict[str, Plain]:
        found: dict[str, Plain] = {}
        merged: dict[str, Plain] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line, key = event.start_mark.line + 1, self._value(event, depth + 1)
            value = self._value(next(self._events), depth + 1)
            if key == "<<" and (tables := [value] if isinstance(value, dict) else value):
                merged |= _together(tables, line)
            elif not isinstance(key, str):
                raise UnusableError(f"line {line}: a key is {described(key)}; allowed is a text")
            elif key in found:
                raise UnusableError(f"line {line}: the key '{key}' is there twice")
            else:
                found[key] = value
        return merged | found


def described(value: object) -> str:
    """A value in a few words, for messages."""
    match value:
        case None:
            return "nothing"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return f"'{str(value)[:80]}'"


def _together(tables: object, line: int) -> dict[str, Plain]:
    """What `<<` merges: of several tables the first one that has a key counts."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UnusableError(f"line {line}: '<<' merges tables; received {described(tables)}")
    found: dict[str, Plain] = {}
    for table in reversed(tables):
        found |= table
    return found
