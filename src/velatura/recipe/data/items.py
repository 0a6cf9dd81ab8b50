"""`[[data]]`: what all kinds of sources have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from velatura.recipe.data.buckets import Bucketing
from velatura.recipe.data.captions import Captioning
from velatura.recipe.data.images import Imaging


class SourceData(Captioning, Imaging, Bucketing):
    """How often the images of a source are used, how they count, and all that is done to them."""

    kind: str
    repeats: float = Field(
        1, gt=0, description="Uses of each image per epoch; 0.5 uses each in every second epoch on average."
    )
    weight: float = Field(1.0, gt=0, description="Loss weight of these images.")
    regularisation: bool = Field(
        False, description="Class images: used as often, together, as all other images are together."
    )
    max_bad: float = Field(
        0.05, ge=0, le=1, description="Share of unusable images above which training refuses."
    )
    compat: Literal["sd-scripts", "everydream2"] | None = Field(
        None, description="Do as this tool does where it differs, known bugs included."
    )
