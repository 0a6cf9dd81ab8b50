"""JSON tables: one object per line, a list of objects, or objects keyed by the image that they describe."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from velatura.data.tables.rows import BadRow, Row, Table
from velatura.errors import DataError

MAX_DOCUMENT = 256 * 2**20  # bytes of a JSON document, which is held in memory as a whole
MAX_LINE = 16 * 2**20  # bytes of a line of JSONL
KEY = "image_path"  # the column that the keys of a keyed object become


def open_json(path: Path, title: str | None = None) -> Table:
    """A list of objects, or an object of objects by image path. Raises DataError, also above MAX_DOCUMENT bytes.

    `title` is what messages call the table; default: its path.
    """
    title = title or str(path)
    size = path.stat().st_size
    if size > MAX_DOCUMENT:
        raise DataError(
            f"table '{title}' has {size / 2**20:.0f} MiB; a JSON table may have {MAX_DOCUMENT // 2**20}. "
            "Write it as JSONL, one object per line: that is read line by line."
        )
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"table '{title}' is not UTF-8 text.") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"table '{title}', line {error.lineno}, column {error.colno}: not JSON: {error.msg}."
        ) from None
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"table '{title}' cannot be read: {error}.") from None
    except RecursionError:
        raise DataError(f"table '{title}' is nested too deeply for a table.") from None
    return _table([_row(where, entry) for where, entry in _entries(document, title)])


def open_jsonl(path: Path, title: str | None = None) -> Table:
    """One object per line; a line that is none is a bad row. Raises DataError for a file that is not UTF-8."""
    return _table(list(_lines(path, title or str(path))))


def _entries(document: Any, title: str) -> Iterator[tuple[str, Any]]:
    if isinstance(document, list):
        yield from ((f"entry {number}", entry) for number, entry in enumerate(document, start=1))
    elif isinstance(document, dict) and all(isinstance(entry, dict) for entry in document.values()):
        yield from ((f"entry '{key}'", {KEY: key, **entry}) for key, entry in document.items())
    else:
        raise DataError(
            f"table '{title}' holds {_kind(document)}; allowed: a list of objects, one per image, "
            "or an object whose keys are image paths and whose values are objects."
        )


def _lines(path: Path, title: str) -> Iterator[Row | BadRow]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise DataError(f"table '{title}', line {number}: longer than {MAX_LINE // 2**20} MiB.")
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            where = f"line {number}"
            try:
                yield _row(where, json.loads(text.decode("utf-8")))
            except UnicodeDecodeError:
                yield BadRow(where=where, reason="not UTF-8 text")
            except json.JSONDecodeError as error:
                yield BadRow(where=where, reason=f"not JSON: {error.msg} at column {error.colno}")
            except ValueError as error:  # a number of thousands of digits
                yield BadRow(where=where, reason=str(error))
            except RecursionError:
                yield BadRow(where=where, reason="nested too deeply")


def _row(where: str, entry: Any) -> Row | BadRow:
    if isinstance(entry, dict):
        return Row(where=where, cells=entry)
    return BadRow(where=where, reason=f"holds {_kind(entry)}; expected an object of columns")


def _table(rows: list[Row | BadRow]) -> Table:
    columns = dict.fromkeys(name for row in rows if isinstance(row, Row) for name in row.cells)

    def chosen(wanted: Collection[str]) -> Iterator[Row | BadRow]:
        return iter(rows)  # rows have all their cells already

    return Table(columns=tuple(columns), rows=chosen)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")
