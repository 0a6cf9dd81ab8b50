"""YAML as plain data: texts, lists and tables. No tag is obeyed, so nothing that a file says can run code."""

from __future__ import annotations

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
_LARGEST = 2**20  # characters


def read_yaml(text: str, name: str) -> Plain:
    """The data of one YAML document; numbers and truth values stay texts, as they are written.

    An alias refers to the value of its anchor without copying it, so that nested ones cost nothing. Raises DataError
    for a tag that would make something other than plain data (some run code), naming the file and the line;
    UnusableError for anything else that is wrong, naming the line.
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


class _Document:
    """A document on its way from the parser's events to data."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._events = yaml.parse(text, Loader=_LOADER)
        self._anchors: dict[str, Plain] = {}

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
            if event.anchor not in self._anchors:
                raise UnusableError(
                    f"line {line}: '*{event.anchor}' stands for nothing that was named before"
                )
            return self._anchors[event.anchor]
        if event.tag not in _PLAIN_TAGS:
            raise DataError(
                f"{self._name}, line {line}: the tag '{event.tag.replace(_PREFIX, '!!')}' is refused, for tags can "
                "make a YAML file run code, and captions need none. Remove it, and ask where the file is from."
            )
        if depth > _DEEPEST:
            raise UnusableError(f"line {line}: more than {_DEEPEST} levels of lists and tables")
        if isinstance(event, yaml.ScalarEvent):
            value: Plain = None if event.implicit[0] and event.value in _NOTHING else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._list(depth)
        else:
            value = self._table(depth)
        if event.anchor:
            self._anchors[event.anchor] = value
        return value

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
    for table in tables:
        found = table | found
    return found
