"""Arrow tables as `datasets` saves them: a stream of record batches; images in it are read in place."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from velatura.data.places import PartPlace
from velatura.data.tables.byte_columns import byte_column
from velatura.data.tables.rows import BadRow, Cell, Row, Table, damage_told


def open_arrow(path: Path, title: str | None = None) -> Table:
    """Read the schema. Raises DataError for what is no Arrow stream, and, with its rows, for one that is damaged.

    A column of bytes, or of structs with `bytes` and `path`, holds images themselves: its cells are places.
    `title` is what messages call the table; default: its path.
    """
    title = title or str(path)
    import pyarrow as pa  # only readers of Parquet and Arrow pay for it

    def batches() -> Any:
        """The batches and the file's bytes, which are mapped: only what is touched is read."""
        whole = pa.memory_map(str(path)).read_buffer()
        return pa.ipc.open_stream(whole), whole

    wrong = f"table '{title}' cannot be read as an Arrow stream (save it with `save_to_disk`, or as Parquet)"
    with damage_told(wrong):
        there: list[str] = list(batches()[0].schema.names)

    def rows(wanted: Collection[str]) -> Iterator[Row | BadRow]:
        names = [name for name in there if name in wanted]
        number = 0
        with damage_told(wrong):
            stream, whole = batches()
        while True:
            with damage_told(f"table '{title}', after row {number}"):
                batch = next(stream, None)
                if batch is None:
                    return
                batch.validate(full=True)  # else offsets that lie lead outside the file, and the process ends
                columns = {name: _cells(batch, name, whole, path) for name in names}
            for row in range(batch.num_rows):
                number += 1
                yield Row(where=f"row {number}", cells={name: columns[name][row] for name in names})

    return Table(columns=tuple(there), rows=rows)


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
    begin = data.address - whole.address if data else 0  # an empty one lies anywhere
    if not 0 <= begin <= whole.size:
        raise OSError("its batches are compressed, so that images in it have no place; save it uncompressed")
    return begin + ends[:-1], np.diff(ends)
