"""`[rated]`: well-rated images stay in use longer than others."""

from __future__ import annotations

from pydantic import Field

from velatura.recipe.section import Section


class Rated(Section):
    """Use fewer images from epoch to epoch, the well-rated ones more often than others."""

    keep: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the images that is still used in the end. Each epoch draws anew which ones, "
        "with chances in proportion to their ratings.",
    )
    epochs: int = Field(
        10, ge=1, description="The share falls evenly, from all in the first epoch to `keep` after so many."
    )
