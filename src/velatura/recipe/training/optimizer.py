"""`[optimizer]`: which one, its schedule and clipping."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from velatura.recipe.section import Section


class Optimizer(Section):
    """How gradients become updates."""

    kind: Literal["adamw", "muon"] = Field(
        "adamw",
        description="muon is for whole parts from random weights: it needs far fewer steps than adamw.",
    )
    learning_rate: float = Field(1e-4, gt=0, le=1000, description="Peak learning rate.")
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        [0.9, 0.999], min_length=2, max_length=2, description="AdamW's betas."
    )
    weight_decay: float = Field(0.01, ge=0, le=1000, description="Decoupled weight decay.")
    eps: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="After the warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    min_share: float = Field(0.0, ge=0, le=1, description="Share of the learning rate where cosine ends.")
    clip: float = Field(1.0, ge=0, description="Limit of the global gradient norm; 0 turns clipping off.")
