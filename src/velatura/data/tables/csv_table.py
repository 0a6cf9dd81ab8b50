"""CSV and its kin: any of four delimiters, quotes as RFC 4180 has them, row by row."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TextIO

from velatura.data.tables.rows import BadRow, Row, Table
from velatura.errors import DataError
from velatura.plural import counted

DELIMITERS = (",", "\t", ";", "|")
MAX_LINE = 16 * 2**20  # characters


def open_csv(path: Path, title: str | None = None) -> Table:
    """Read the header; the delimiter is the one that makes most columns of it. Raises DataError.

    UTF-8, with or without a byte order mark, or UTF-16 with one. Rows raise DataError, with the line, for quotes that
    are not closed, cells of more than 131,072 characters and other encodings; a row with more or fewer cells than the
    header is a bad row. `title` is what messages call the table; default: its path.
    """
    title = title or str(path)
    encoding = _encoding(path)
    delimiter = max(DELIMITERS, key=lambda each: _columns(path, title, encoding, each))  # the first of equals
    _, first = next(_records(path, title, encoding, delimiter), (0, []))
    header = [cell.strip() for cell in first]
    if not header:
        raise DataError(f"table '{title}' is empty; expected a first line with the names of its columns.")
    if any("\0" in cell for cell in header):
        raise DataError(
            f"table '{title}' holds zero bytes: it is no text, or UTF-16 without its mark. Save it as UTF-8."
        )
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise DataError(f"table '{title}' has more than one column named '{twice[0]}'.")

    def rows(wanted: Collection[str]) -> Iterator[Row | BadRow]:
        kept = [(index, name) for index, name in enumerate(header) if name in wanted]
        for line, cells in _records(path, title, encoding, delimiter, skip=1):
            if len(cells) == len(header):
                yield Row(where=f"line {line}", cells={name: cells[index] for index, name in kept})
            else:
                many = f"has {counted(len(cells), 'cell')}, the header {len(header)}"
                hint = " (a delimiter inside a cell needs quotes around the cell)" * (
                    len(cells) > len(header)
                )
                yield BadRow(where=f"line {line}", reason=many + hint)

    return Table(columns=tuple(header), rows=rows)


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        begin = file.read(2)
    return "utf-16" if begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _columns(path: Path, title: str, encoding: str, delimiter: str) -> int:
    """How many columns a delimiter makes of the header; none where the quotes make no sense with it."""
    try:
        return len(next(_records(path, title, encoding, delimiter), (0, []))[1])
    except DataError:
        return 0


def _records(
    path: Path, title: str, encoding: str, delimiter: str, *, skip: int = 0
) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row with the line it begins in; blank lines are left out."""
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(_lines(file, title), delimiter=delimiter, strict=True)
        line, seen = 1, 0
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(f"table '{title}', line {line}: {_why(str(error))}.") from None
            except UnicodeDecodeError:
                raise DataError(
                    f"table '{title}'{_broken_line(path, encoding)}: not UTF-8 text. Save the table as UTF-8."
                ) from None
            if cells and any(cell.strip() for cell in cells):
                seen += 1
                if seen > skip:
                    yield line, cells


def _broken_line(path: Path, encoding: str) -> str:
    """Where UTF-8 ends; text is decoded far ahead of the line that is read."""
    if encoding == "utf-16":
        return ""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with path.open("rb") as file:
        while data := file.read(2**20):
            try:
                decoder.decode(data)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                break
            line += data.count(b"\n")
    return f", line {line}"


def _lines(file: TextIO, title: str) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise DataError(f"table '{title}', line {number}: longer than {MAX_LINE // 2**20} Mi characters.")
        yield line


def _why(error: str) -> str:
    if "field larger" in error:
        return f"a cell has more than {csv.field_size_limit():,} characters, or a quote is not closed"
    if "unexpected end" in error:
        return "a quote that begins a cell here is not closed"
    if "expected after" in error:
        return 'a closing quote is followed by more text; quotes inside a quoted cell are written twice: ""'
    return error
