"""`[[data]] kind = "table"`: one row per image in a CSV, JSONL, JSON, Parquet or Arrow file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from velatura.recipe.data.sources.rows import RowData
from velatura.recipe.path_keys import FilePath, FolderPath

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow")


class TableData(RowData):
    """A table whose columns name files and captions, one row per image."""

    kind: Literal["table"] = Field(
        "table", description="Rows of a CSV, TSV, JSONL, JSON, Parquet or Arrow file."
    )
    file: FilePath = Field(description="The table; relative paths start at the recipe's own folder.")
    folder: FolderPath | Annotated[list[FolderPath], Field(min_length=1)] | None = Field(
        None,
        description="Where the files are that the table names; of a list, the first that has the file counts. "
        "Default: beside the table.",
    )

    @classmethod
    def fits(cls, table: Mapping[str, Any]) -> bool:
        """The file's ending tells."""
        return str(table.get("file", "")).lower().endswith(TABLE_ENDINGS)
