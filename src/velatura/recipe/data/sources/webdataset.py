"""`[[data]] kind = "webdataset"`: tar shards whose members share a name with their picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from velatura.recipe.data.companions import CompanionMembers
from velatura.recipe.data.items import SourceData
from velatura.recipe.data.sources.folder import Extension
from velatura.recipe.path_keys import FilesPattern


class WebDatasetData(SourceData, CompanionMembers):
    """Tar shards in which a sample is the members of one name up to its first dot: `a.jpg`, `a.txt`."""

    kind: Literal["webdataset"] = Field("webdataset", description="Tar shards as WebDataset has them.")
    shards: FilesPattern = Field(
        description="A folder of .tar files, or names by `*` and braces: 'shards/train-{000..012}.tar'."
    )
    image_member: str = Field(
        "",
        pattern=r"^[^./]*$",
        description="What stands between a sample's name and its picture's extension: 'output' for `a.output.jpg`; "
        "default: nothing, `a.jpg`.",
    )
    caption_extension: Extension | Annotated[list[Extension], Field(min_length=1)] = Field(
        [".txt", ".caption", ".json"],
        description="What the caption's name ends in; of a list, the first that a sample has counts.",
    )
    caption_key: str | None = Field(
        None,
        min_length=1,
        description="In a caption of JSON: the key of the text; default: prompt, caption or text.",
    )

    @classmethod
    def fits(cls, table: Mapping[str, Any]) -> bool:
        """Nothing else has shards."""
        return "shards" in table
