"""`[[data]] kind = "huggingface"`: a dataset of the Hugging Face `datasets` library, in a folder on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from velatura.recipe.data.sources.rows import RowData
from velatura.recipe.path_keys import FolderPath


class HuggingFaceData(RowData):
    """A dataset repository: Parquet files, pictures with `metadata.csv`, or what `save_to_disk` wrote."""

    kind: Literal["huggingface"] = Field("huggingface", description="A Hugging Face dataset on this machine.")
    repository: FolderPath = Field(description="Its folder, as downloaded or as `save_to_disk` wrote it.")
    split: str | None = Field(
        None,
        min_length=1,
        description="Which of its splits; default: train, or all files where none names a split.",
    )

    @classmethod
    def fits(cls, table: Mapping[str, Any]) -> bool:
        """Nothing else is a repository."""
        return "repository" in table
