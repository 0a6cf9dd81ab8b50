"""`[objective] kind = "diffusion"`: noise or v prediction on a discrete schedule."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from velatura.recipe.section import Section


class DiffusionObjective(Section):
    """Predict the noise (or v) at a random step of the schedule."""

    kind: Literal["diffusion"] = Field(
        "diffusion", description="The objective; left out, it is the family's own."
    )
    min_snr_gamma: float | None = Field(None, gt=0, description="Weight min(snr, gamma) / snr; 5 is usual.")
    noise_offset: float = Field(0.0, ge=0, description="Adds a constant per channel to the noise.")
    caption_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of captions replaced by the empty one."
    )
    compat: Literal["sd-scripts"] | None = Field(
        None,
        description="Masked losses as sd-scripts has them: divided by all pixels, not by those that count.",
    )
