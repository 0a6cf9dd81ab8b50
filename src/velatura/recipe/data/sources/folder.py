"""`[[data]]`: a folder of pictures with captions beside them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from velatura.recipe.data.companions import CompanionFolders
from velatura.recipe.data.items import SourceData
from velatura.recipe.path_keys import FolderPath

Extension = Annotated[str, Field(pattern=r"^\.")]


class FolderData(SourceData, CompanionFolders):
    """Images in a folder, each with a caption file of the same name."""

    kind: Literal["folder"] = Field("folder", description="Images in a folder.")
    folder: FolderPath = Field(description="The folder; relative paths start at the recipe's own folder.")
    recursive: bool = Field(False, description="Also read sub-folders.")
    caption: str | None = Field(
        None, description="One caption for all images that have no file of their own."
    )
    caption_extension: Extension | Annotated[list[Extension], Field(min_length=1)] = Field(
        ".txt", description="Extension of the caption files; of a list, the first that exists counts."
    )
    caption_from_name: bool = Field(False, description="Where there is no caption file, use the file name.")
