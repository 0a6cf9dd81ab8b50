"""`[[data]]`: a folder of pictures with captions beside them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from velatura.recipe.section import Section

Edge = Annotated[int, Field(ge=16, le=16384)]


class FolderData(Section):
    """Images in a folder, each with a caption file of the same name."""

    folder: str = Field(description="The folder; relative paths start at the recipe's own folder.")
    recursive: bool = Field(False, description="Also read sub-folders.")
    resolution: Edge | Annotated[list[Edge], Field(min_length=1)] = Field(
        1024, description="Training size: the square root of the pixel area. A list trains on each of them."
    )
    repeats: int = Field(1, ge=1, description="Uses of each image per epoch.")
    weight: float = Field(1.0, gt=0, description="Loss weight of these images.")
    caption: str | None = Field(
        None, description="One caption for all images that have no file of their own."
    )
    caption_extension: str = Field(".txt", pattern=r"^\.", description="Extension of the caption files.")
    caption_from_name: bool = Field(False, description="Where there is no caption file, use the file name.")
    trigger: str | None = Field(None, description="A word put before every caption.")
    buckets: bool = Field(
        True, description="Keep aspect ratios, in buckets of equal area; false crops to squares."
    )
    bucket_step: int | None = Field(
        None, ge=8, description="Bucket edges are multiples of this; default 64 or less."
    )
    upscale: bool = Field(
        True, description="Enlarge images smaller than their bucket; false leaves them out."
    )
    flip: float = Field(0.0, ge=0, le=1, description="Probability of a horizontal flip.")
    max_bad: float = Field(
        0.05, ge=0, le=1, description="Share of unreadable images above which training refuses."
    )
    background: Literal["white", "black", "grey"] = Field(
        "white", description="What shows through transparency."
    )
