"""Parquet tables: row group by row group; images inside the table stay there until they are needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from velatura.data.cells import MAX_GROUP, column_size, leaves
from velatura.data.places import CellPlace
from velatura.data.tables.byte_columns import byte_column
from velatura.data.tables.rows import BadRow, Cell, Row, Table, damage_told

_BUFFER = 2**16  # bytes that are read at once


def open_parquet(path: Path, title: str | None = None) -> Table:
    """Read the schema. Raises DataError for what is no Parquet file, and for row groups beyond MAX_GROUP.

    A column of bytes, or of structs with `bytes` and `path`, holds images themselves: its cells are places.
    `title` is what messages call the table; default: its path.
    """
    title = title or str(path)
    import pyarrow.parquet as pq  # 0.2 s that only readers of Parquet pay

    with damage_told(f"table '{title}' cannot be read as Parquet"):
        file = pq.ParquetFile(path, buffer_size=_BUFFER)
        stored = {str(field.name): byte_column(field) for field in file.schema_arrow}

    def rows(wanted: Collection[str]) -> Iterator[Row | BadRow]:
        names = [name for name in stored if name in wanted]
        number = 0
        for group in range(file.num_row_groups):
            with damage_told(f"table '{title}', row group {group}"):
                columns = {name: _cells(file, path, name, stored[name], group) for name in names}
                count = file.metadata.row_group(group).num_rows
                if any(len(column) != count for column in columns.values()):
                    raise ValueError("its columns are not of one length")
            for row in range(count):
                number += 1
                yield Row(where=f"row {number}", cells={name: columns[name][row] for name in names})

    return Table(columns=tuple(stored), rows=rows)


def _cells(file: Any, path: Path, name: str, stored: str | None, group: int) -> list[Cell]:
    """A column of a row group: values, or the places of bytes; where there are no bytes, the path beside them."""
    if stored is None:
        return _values(file, name, group)
    filled = _filled(file, stored, group)
    paths: list[Cell] = [None] * len(filled)
    in_struct = stored != name and any(part.name == "path" for part in file.schema_arrow.field(name).type)
    if in_struct and not all(filled):
        paths = [cell and cell["path"] for cell in _values(file, f"{name}.path", group)]  # type: ignore[index]
    return [
        CellPlace(str(path), stored, group, row) if here else text
        for row, (text, here) in enumerate(zip(paths, filled, strict=True))
    ]


def _values(file: Any, column: str, group: int) -> list[Cell]:
    size = column_size(file, column, group)
    if size > MAX_GROUP:
        raise OSError(
            f"'{column}' has {size / 2**30:.1f} GiB here; at most {MAX_GROUP // 2**30} are read at once"
        )
    return list(file.read_row_group(group, columns=[column]).column(0).to_pylist())


def _filled(file: Any, column: str, group: int) -> list[bool]:
    """Which cells hold bytes: told by the group's statistics where they can, so that no image is read."""
    rows = int(file.metadata.row_group(group).num_rows)
    statistics = leaves(file, column, group)[0].statistics
    if statistics is not None and statistics.has_null_count and statistics.null_count in (0, rows):
        return [statistics.null_count == 0] * rows
    values = file.read_row_group(group, columns=[column]).column(0).combine_chunks()
    for part in column.split(".")[1:]:
        values = values.field(part)
    return [bool(value) for value in values.is_valid().to_pylist()]
