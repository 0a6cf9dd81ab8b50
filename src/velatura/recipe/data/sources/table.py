"""`[[data]] kind = "table"`: one row per image in a CSV, JSONL, JSON or Parquet file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from velatura.recipe.data.companions import CompanionColumns
from velatura.recipe.data.items import SourceData


class TableData(SourceData, CompanionColumns):
    """A table whose columns name files and captions."""

    kind: Literal["table"] = Field("table", description="Rows of a CSV, JSONL, JSON or Parquet file.")
    file: str = Field(description="The table; relative paths start at the recipe's own folder.")
    folder: str | None = Field(
        None, description="Where the files are that the table names; default: beside the table."
    )
    image_column: str = Field("image", description="Column of the image's file.")
    caption_column: str | None = Field("prompt", description="Column of the caption.")
    outside: bool = Field(False, description="Allow files outside the folder: absolute paths and `..`.")
