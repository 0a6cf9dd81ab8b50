"""`[[data]] kind = "table"`: one row per image in a CSV, JSONL, JSON or Parquet file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from velatura.recipe.data.companions import CompanionColumns
from velatura.recipe.data.items import SourceData
from velatura.recipe.path_keys import FilePath, FolderPath

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


class TableData(SourceData, CompanionColumns):
    """A table whose columns name files and captions, one row per image."""

    kind: Literal["table"] = Field("table", description="Rows of a CSV, TSV, JSONL, JSON or Parquet file.")
    file: FilePath = Field(description="The table; relative paths start at the recipe's own folder.")
    folder: FolderPath | Annotated[list[FolderPath], Field(min_length=1)] | None = Field(
        None,
        description="Where the files are that the table names; of a list, the first that has the file counts. "
        "Default: beside the table.",
    )
    image_column: str | None = Field(
        None, description="Column of the image's file; default: image, image_path or file_name."
    )
    caption_column: str | None = Field(
        None,
        description="Column of the caption; default: prompt, caption or text. An empty text: there is none.",
    )
    tags_column: str | None = Field(None, description="Column of tags, which are put after the caption.")
    repeats_column: str | None = Field(
        None,
        description="Column of a row's own `repeats`; 0 leaves the row out, an empty cell is the table's.",
    )
    weight_column: str | None = Field(None, description="Column of a row's own loss `weight`.")
    flip_column: str | None = Field(None, description="Column of a row's own probability of a `flip`.")
    outside: bool = Field(
        False, description="Allow files outside the folder: absolute paths, `..`, and links that lead out."
    )

    @classmethod
    def fits(cls, table: Mapping[str, Any]) -> bool:
        """The file's ending tells."""
        return str(table.get("file", "")).lower().endswith(TABLE_ENDINGS)
