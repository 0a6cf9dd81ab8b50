"""Parquet tables: row group by row group; images inside the table stay there until they are needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from velatura.data.cells import MAX_GROUP, column_size
from velatura.data.places import CellPlace
from velatura.data.tables.byte_columns import byte_column
from velatura.data.tables.rows import BadRow, Cell, Row, Table
from velatura.errors import DataError


def open_parquet(path: Path) -> Table:
    """Read the schema. Raises DataError for what is no Parquet file, and for row groups beyond MAX_GROUP.

    A column of bytes, or of structs with `bytes` and `path`, holds images themselves: its cells are places.
    """
    import pyarrow as pa  # 0.2 s that only readers of Parquet pay
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"table '{path}' cannot be read as Parquet: {str(error).rstrip('.')}.") from None
    schema = file.schema_arrow
    stored = {field.name: byte_column(field) for field in schema}

    def rows(wanted: Collection[str]) -> Iterator[Row | BadRow]:
        names = [name for name in schema.names if name in wanted]
        number = 0
        for group in range(file.num_row_groups):
            try:
                columns = {name: _cells(file, path, name, stored[name], group) for name in names}
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"table '{path}', row group {group}: {str(error).rstrip('.')}.") from None
            for row in range(file.metadata.row_group(group).num_rows):
                number += 1
                yield Row(where=f"row {number}", cells={name: columns[name][row] for name in names})

    return Table(columns=tuple(schema.names), rows=rows)


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
    chunks = file.metadata.row_group(group)
    leaves = [chunks.column(index) for index in range(chunks.num_columns)]
    statistics = next(leaf.statistics for leaf in leaves if leaf.path_in_schema == column)
    if statistics is not None and statistics.has_null_count and statistics.null_count in (0, chunks.num_rows):
        return [statistics.null_count == 0] * int(chunks.num_rows)
    values = file.read_row_group(group, columns=[column]).column(0).combine_chunks()
    for part in column.split(".")[1:]:
        values = values.field(part)
    return [bool(value) for value in values.is_valid().to_pylist()]
