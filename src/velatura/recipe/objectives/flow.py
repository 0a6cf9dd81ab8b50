"""`[objective] kind = "flow"`: rectified flow matching."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from velatura.recipe.section import Section

Timesteps = Literal["uniform", "sigmoid", "shift", "flux_shift"]
Weighting = Literal["none", "sigma_sqrt", "cosmap"]


class FlowObjective(Section):
    """Predict the velocity noise - image at a random time."""

    kind: Literal["flow"] = Field("flow", description="The objective; left out, it is the family's own.")
    timesteps: Timesteps = Field(
        "flux_shift",
        description="Distribution of t: uniform; sigmoid of a normal; the same shifted by `shift`, or "
        "by the image's size as FLUX does when it samples.",
    )
    shift: float = Field(3.1582, gt=0, description="For timesteps = 'shift'.")
    sigmoid_scale: float = Field(1.0, gt=0, description="Spread of the normal before the sigmoid.")
    weighting: Weighting = Field("none", description="Loss weight as a function of t.")
    caption_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of captions replaced by the empty one."
    )
    compat: Literal["sd-scripts"] | None = Field(
        None,
        description="Masked losses as sd-scripts has them: divided by all pixels, not by those that count.",
    )
