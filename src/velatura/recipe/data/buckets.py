"""`[[data]]`: at which sizes images are trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from velatura.recipe.section import Section

Edge = Annotated[int, Field(ge=16, le=16384)]


class Bucketing(Section):
    """Training sizes, and how many images of one size make a batch."""

    resolution: Edge | Annotated[list[Edge], Field(min_length=1)] = Field(
        1024, description="Training size: the square root of the pixel area. A list trains on each of them."
    )
    size: Annotated[list[Edge], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="Width and height in place of resolution: with buckets, their area; without, the size itself.",
    )
    buckets: bool = Field(
        True, description="Keep aspect ratios, in buckets of equal area; false crops to squares."
    )
    bucket_step: int | None = Field(
        None, ge=8, description="Bucket edges are multiples of this; default 64 or less."
    )
    bucket_min: int | None = Field(
        None, ge=16, description="Shortest edge of a bucket; default: half the resolution."
    )
    bucket_max: int | None = Field(
        None, ge=16, description="Longest edge of a bucket; default: twice the resolution."
    )
    batch_size: int | None = Field(
        None, ge=1, description="Images per batch at these sizes; default: that of [training]."
    )
