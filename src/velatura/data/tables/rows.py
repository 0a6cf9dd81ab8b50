"""Rows of tables, whatever the format of the file: cells by the names of their columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

Cell = object  # a text, a number, a list of them, nothing, or a Place whose bytes are the file itself


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row; `where` finds it again: "line 7"."""

    where: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that cannot be read."""

    where: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that was opened: its columns, and its rows with the cells of some of them."""

    columns: tuple[str, ...]
    rows: Callable[[Collection[str]], Iterator[Row | BadRow]]
