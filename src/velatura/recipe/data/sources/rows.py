"""`[[data]]`: rows that name an image, or hold it, with its caption and its companions."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from velatura.recipe.data.companions import CompanionColumns
from velatura.recipe.data.items import SourceData


class RowData(SourceData, CompanionColumns):
    """Which columns are read, and as what."""

    # false: columns of captions and tags are read where the table has them
    texts_must_exist: ClassVar[bool] = True

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
