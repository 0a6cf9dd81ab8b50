"""`[ema]`: an average of the trained weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from velatura.recipe.section import Section

Kept = Literal["both", "average", "raw"]
DECAY = 0.999


class Ema(Section):
    """Exponential moving average of the trained weights; validation measures it."""

    decay: float = Field(
        DECAY,
        gt=0,
        lt=1,
        description="Share of the average that an update keeps, at most: it begins low, as (1 + n) / (10 + n) at "
        "update n.",
    )
    strength: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="In place of decay: the share of the start that is left in the average after the last step. Each "
        "update then keeps strength^(every / training.steps).",
    )
    every: int = Field(1, ge=1, description="Steps between updates of the average.")
    device: Literal["auto", "cpu"] = Field(
        "auto",
        description="Where the average is kept; auto: with the trained weights. cpu takes no memory of the device, and "
        "more time for an update.",
    )
    saved: Kept = Field(
        "both", description="What is saved: the average (files end in -ema), the raw weights."
    )
    previewed: Kept = Field("both", description="What paints previews, likewise.")
    compat: Literal["everydream2"] | None = Field(
        None, description="decay from the first update on, as EveryDream2 has it."
    )
