"""Rows of any table to records: an image, its caption, its companions, and what a row says of its own use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from velatura.data.items import some
from velatura.data.places import Place
from velatura.data.sources.lookup import Found, Lookup, UnusableError
from velatura.data.sources.record import Reading, Record
from velatura.data.sources.table_columns import Columns, choose_columns
from velatura.data.tables.rows import BadRow, Cell, Row, Table
from velatura.data.text.captions import Caption, tidy
from velatura.errors import DataError
from velatura.plural import agreeing, counted
from velatura.recipe.data.sources.rows import RowData

MAX_ROWS = 5_000_000
# what a column of numbers may hold
_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "repeats": ("a number, at least 0", lambda value: 0 <= value < float("inf")),
    "weight": ("a number, more than 0", lambda value: 0 < value < float("inf")),
    "flip": ("a number from 0 to 1", lambda value: 0 <= value <= 1),
}


def read_rows(name: str, root: Path, section: RowData, table: Table, lookup: Lookup) -> Reading:
    """The rows of a table, in its order; `name` is what messages call it.

    Raises DataError for a table without rows, without the columns that are named, or of more than MAX_ROWS rows. A row
    that names no file, or one that is not there, is unusable.
    """
    columns = choose_columns(section, name, table.columns)
    records: list[Record] = []
    unusable: list[tuple[str, str]] = []
    for number, row in enumerate(table.rows(columns.wanted), start=1):
        if number > MAX_ROWS:
            raise DataError(f"table '{name}' has more than {MAX_ROWS:,} rows; split it into several.")
        try:
            records.append(_record(row, name, section, columns, lookup))
        except UnusableError as error:
            unusable.append((f"{name}, {row.where}", str(error)))
    if not records and not unusable:
        raise DataError(f"table '{name}' has no rows; expected one for each image.")
    unread = [column for column in table.columns if column not in columns.wanted]
    return Reading(
        source=name,
        root=root,
        records=[record for record in records if record.own.get("repeats") != 0],
        unusable=tuple(unusable),
        notices=tuple(_remarks(name, records, unread)),
    )


def _record(row: Row | BadRow, name: str, section: RowData, columns: Columns, lookup: Lookup) -> Record:
    if isinstance(row, BadRow):
        raise UnusableError(row.reason)
    image = _file(row, columns.image, "image", lookup)
    numbers = {field: _number(row, field, column) for field, column in columns.own.items()}
    return Record(
        name=image.name if isinstance(image, Found) else f"{name}, {row.where}",
        image=_place(image),
        caption=_caption(row, columns, section),
        companions={
            role: _place(_file(row, column, role, lookup)) for role, column in columns.companions.items()
        },
        own={field: value for field, value in numbers.items() if value is not None},
    )


def _file(row: Row, column: str, what: str, lookup: Lookup) -> Found | Place:
    """What a cell names, or holds itself. Raises UnusableError."""
    cell = row.cells.get(column)
    if isinstance(cell, list) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, list) and cell:
        raise UnusableError(f"names {counted(len(cell), 'file')} for the {what} in '{column}'; one is read")
    if isinstance(cell, Place):
        return cell
    if cell is None or cell in ("", []):
        raise UnusableError(f"names no {what}: '{column}' is empty")
    if not isinstance(cell, str):
        raise UnusableError(f"'{column}' holds no path: {str(cell)[:80]}")
    return lookup.find(cell.strip())


def _place(file: Found | Place) -> Place:
    return file.place if isinstance(file, Found) else file


def _caption(row: Row, columns: Columns, section: RowData) -> Caption:
    """The caption's lines, with the tags after each."""
    text = _text(row, columns.caption, between="\n")
    tags = _text(row, columns.tags, between=f"{section.tag_separator} ").replace(
        "\n", f"{section.tag_separator} "
    )
    if tags:
        lines = text.split("\n") if section.wildcards else [" ".join(text.split("\n"))]
        text = "\n".join(f"{line}{section.tag_separator} {tags}" if line else tags for line in lines)
    return Caption(text=text, origin="table" if text else "none")


def _text(row: Row, column: str | None, *, between: str) -> str:
    """The text in a cell, or of a list of texts; numbers are texts as well. Raises UnusableError for all else."""
    cell: Cell = None if column is None else row.cells.get(column)
    entries = cell if isinstance(cell, list) else [] if cell is None else [cell]
    for entry in entries:
        if not isinstance(entry, str | int | float):
            holds = "bytes" if isinstance(entry, Place) else str(entry)[:80]
            raise UnusableError(f"'{column}' holds no text: {holds}")
    return between.join(tidy(str(entry)) for entry in entries)


def _number(row: Row, field: str, column: str) -> float | None:
    """A row's own value; None where the cell is empty. Raises UnusableError."""
    cell = row.cells.get(column)
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    words, fits = _NUMBERS[field]
    try:
        value = float(cell) if isinstance(cell, str | int | float) else float("nan")
    except (ValueError, OverflowError):
        value = float("nan")
    if not fits(value):
        raise UnusableError(f"'{column}' is {str(cell)[:80]}; allowed: {words}")
    return value


def _remarks(name: str, records: Sequence[Record], unread: Sequence[str]) -> Iterator[str]:
    counts = Counter(record.image.key for record in records)
    twice = list(dict.fromkeys(record.name for record in records if counts[record.image.key] > 1))
    if twice:
        images = counted(len(twice), "image is", "images are")
        yield f"{images} in several rows of '{name}', and each row counts: {some(twice)}."
    if unused := [record.name for record in records if record.own.get("repeats") == 0]:
        say = agreeing(len(unused), "says 0 repeats and is", "say 0 repeats and are")
        yield f"{counted(len(unused), 'row')} of '{name}' {say} left out: {some(unused)}."
    if unread:
        yield f"columns of '{name}' that are not read: {some(unread, 12)}."
