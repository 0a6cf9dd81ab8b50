"""Arrow tables as `datasets` saves them: a stream of record batches; images in it are read in place."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from velatura.data.places import PartPlace
from velatura.data.tables.byte_columns import byte_column
from velatura.data.tables.rows import BadRow, Cell, Row, Table
from velatura.errors import DataError


def open_arrow(path: Path) -> Table:
    """Read the schema. Raises DataError for what is no Arrow stream, and, with its rows, for one that is damaged.

    A column of bytes, or of structs with `bytes` and `path`, holds images themselves: its cells are places.
    """
    import pyarrow as pa  # only readers of Parquet and Arrow pay for it

    def batches() -> Any:
        """The batches and the file's bytes, which are mapped: only what is touched is read."""
        try:
            whole = pa.memory_map(str(path)).read_buffer()
            return pa.ipc.open_stream(whole), whole
        except pa.ArrowException as error:
            raise DataError(
                f"table '{path}' cannot be read as an Arrow stream: {error}. "
                "Save it with `save_to_disk`, or as Parquet."
            ) from None

    schema = batches()[0].schema

    def rows(wanted: Collection[str]) -> Iterator[Row | BadRow]:
        names = [name for name in schema.names if name in wanted]
        number = 0
        stream, whole = batches()
        while True:
            try:
                batch = stream.read_next_batch()
                columns = {name: _cells(batch, name, whole, path) for name in names}
            except StopIteration:
                return
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"table '{path}', after row {number}: {str(error).rstrip('.')}.") from None
            for row in range(batch.num_rows):
                number += 1
                yield Row(where=f"row {number}", cells={name: columns[name][row] for name in names})

    return Table(columns=tuple(schema.names), rows=rows)


def _cells(batch: Any, name: str, whole: Any, path: Path) -> list[Cell]:
    """A column of a batch: values, or the places of bytes; where there are no bytes, the path beside them."""
    column = batch.column(name)
    stored = byte_column(batch.schema.field(name))
    if stored is None:
        return list(column.to_pylist())
    cells: list[Cell] = [None] * len(column)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    if stored != name:
        parts = {part.name: column.field(part.name) for part in column.type}
        cells = list(parts["path"].to_pylist()) if "path" in parts else cells
        column = parts["bytes"]
        there = there & column.is_valid().to_numpy(zero_copy_only=False)
    starts, sizes = _extents(column, whole)
    for row in np.flatnonzero(there):
        cells[row] = PartPlace(str(path), stored, int(starts[row]), int(sizes[row]))
    return cells


def _extents(column: Any, whole: Any) -> tuple[Any, Any]:
    """Where the bytes of each cell begin in the file, and how many they are. Raises OSError for compressed batches."""
    _, offsets, data = column.buffers()
    wide = np.int64 if "large" in str(column.type) else np.int32
    ends = np.frombuffer(offsets, wide)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    begin = 0 if data is None else data.address - whole.address
    if not 0 <= begin <= whole.size:
        raise OSError("its batches are compressed, so that images in it have no place; save it uncompressed")
    return begin + ends[:-1], np.diff(ends)
