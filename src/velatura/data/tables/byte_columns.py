"""Columns that hold files themselves, and not their names."""

from __future__ import annotations

from typing import Any


def byte_column(field: Any) -> str | None:
    """Where a column of an Arrow schema keeps bytes: itself, or its struct's `bytes`; None for other columns."""
    import pyarrow.types as kinds  # only readers of Parquet and Arrow pay for it

    def binary(kind: Any) -> bool:
        return kind is not None and bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))

    if binary(field.type):
        return str(field.name)
    if kinds.is_struct(field.type):
        inner = {part.name: part.type for part in field.type}
        return f"{field.name}.bytes" if binary(inner.get("bytes")) else None
    return None
