"""Cells of Parquet tables that hold bytes. Parquet gives no single cell: a row group's column is read as a whole."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

MAX_GROUP = 2 * 2**30  # uncompressed bytes of a column in one row group

_lock = threading.Lock()


def read_cell(table: str, modified: int, column: str, group: int, row: int) -> bytes:
    """The bytes in one cell; `column` may lie in a struct: "image.bytes". `modified` tells versions of a file apart.

    The latest two row groups that were read are kept. Raises OSError.
    """
    with _lock:  # threads that want neighbours wait for one of them, and do not all read the same group
        values = _column(table, modified, column, group)
    if row >= len(values) or not values[row].is_valid:
        raise OSError("the cell is empty")
    return bytes(values[row].as_py())


@lru_cache(maxsize=2)
def _column(table: str, modified: int, column: str, group: int) -> Any:
    import pyarrow.parquet as pq  # 0.2 s that only readers of Parquet pay

    try:
        with pq.ParquetFile(table) as file:
            size = column_size(file, column, group)
            if size > MAX_GROUP:
                raise OSError(
                    f"row group {group} holds {size / 2**30:.1f} GiB of '{column}'; at most "
                    f"{MAX_GROUP // 2**30} are read at once: write the table with smaller row groups"
                )
            values = file.read_row_group(group, columns=[column]).column(0).combine_chunks()
        for name in column.split(".")[1:]:
            values = values.field(name)
    except OSError:
        raise
    except Exception as error:  # Parquet raises anything on damaged data
        raise OSError(f"the table cannot be read: {error}") from error
    return values


def column_size(file: Any, column: str, group: int) -> int:
    """Uncompressed bytes of a column in a row group of a ParquetFile."""
    return sum(int(leaf.total_uncompressed_size) for leaf in leaves(file, column, group))


def leaves(file: Any, column: str, group: int) -> list[Any]:
    """What a ParquetFile says of a column, or of all that is inside it, in a row group.

    Where that is not sound, asking Arrow for it ends the process, and reading is a plain error: so a row is read first.
    Raises ArrowException, ValueError.
    """
    next(file.iter_batches(batch_size=1, row_groups=[group], columns=[column], use_threads=False), None)
    group_said = file.metadata.row_group(group)
    found = []
    for index in range(group_said.num_columns):
        declared = file.schema.column(index)
        if _inside(declared.path, column):
            found.append(group_said.column(index))
            if found[-1].physical_type != declared.physical_type:
                raise ValueError(f"'{declared.path}' is not of the type that the schema says")
    return found


def _inside(leaf: str, column: str) -> bool:
    return leaf == column or leaf.startswith(f"{column}.")
