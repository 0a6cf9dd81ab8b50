"""Rows of tables, whatever the format of the file: cells by the names of their columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from velatura.errors import DataError

MAX_REASON = 500  # characters of a library's message
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


@contextmanager
def damage_told(where: str) -> Iterator[None]:
    """Raise DataError for whatever a library raises on a damaged table."""
    try:
        yield
    except DataError:
        raise
    except (
        Exception
    ) as error:  # Arrow and Parquet: their own errors, OSError, UnicodeDecodeError, OverflowError…
        reason = str(error).rstrip(".")[:MAX_REASON] or type(error).__name__
        raise DataError(f"{where}: {reason}.") from None


def joined(tables: Mapping[str, Table]) -> Table:
    """Tables one after another, by what to call them; the columns are those of the first.

    Rows raise DataError where a later table lacks a column that is wanted.
    """
    first = next(iter(tables.values()))

    def rows(wanted: Collection[str]) -> Iterator[Row | BadRow]:
        for name, table in tables.items():
            if missing := sorted(set(wanted) - set(table.columns)):
                raise DataError(
                    f"table '{name}' has no column '{missing[0]}', and the first of its kind has; its columns are "
                    f"{', '.join(table.columns)}."
                )
            yield from (replace(row, where=f"{name}, {row.where}") for row in table.rows(wanted))

    return Table(columns=first.columns, rows=rows)
