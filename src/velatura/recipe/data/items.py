"""`[[data]]`: what all kinds of sources have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

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
    dataset: str = Field(
        "",
        description="Tables of one name belong together: regularisation images count against theirs alone, and a "
        "share for validation is one of all of them.",
    )
    validation_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of these images held out of training; default: that of [validation].",
    )
    validation_seed: int | None = Field(
        None, ge=0, description="Chooses which images are held out; default: that of [validation]."
    )
    max_bad: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of unusable images above which training refuses; a single one is allowed unless this is 0.",
    )
    compat: Literal["sd-scripts", "everydream2"] | None = Field(
        None, description="Do as this tool does where it differs, known bugs included."
    )

    @classmethod
    def fits(cls, table: Mapping[str, Any]) -> bool:
        """Whether a `[[data]]` table that names no kind is surely of this one."""
        return False
