"""`[optimizer]`: which one, its schedule and clipping."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from velatura.recipe.section import Section

Option = bool | int | float | str | list[bool | int | float | str]
BUILT_IN = ("adamw", "adamw8bit", "adafactor", "muon")


class Optimizer(Section):
    """How gradients become updates."""

    kind: str = Field(
        "adamw",
        examples=[*BUILT_IN, "prodigyopt.Prodigy", "mypackage.optim:Class"],
        description="adamw8bit keeps its averages in 8 bits, adafactor almost none; muon is for whole parts from "
        "random weights: it needs far fewer steps than adamw. A class of an installed package by its import path.",
    )
    learning_rate: float = Field(1e-4, gt=0, le=1000, description="Peak learning rate.")
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        [0.9, 0.999], min_length=2, max_length=2, description="Of adamw, adamw8bit, and of muon's AdamW."
    )
    weight_decay: float = Field(0.01, ge=0, le=1000, description="Decoupled weight decay.")
    eps: float = Field(1e-8, gt=0, description="Epsilon of adamw, adamw8bit, and of muon's AdamW.")
    options: dict[str, Option] = Field(
        {}, description="Passed on to a class by import path, in place of betas, weight_decay and eps."
    )
    schedule: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"] = Field(
        "cosine", description="How the learning rate goes down after the warm-up."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    min_share: float = Field(
        0.0, ge=0, le=1, description="Share of the learning rate where a schedule that goes down ends."
    )
    cycles: int = Field(1, ge=1, description="So often cosine_with_restarts goes down.")
    power: float = Field(1.0, gt=0, le=100, description="Of polynomial: 1 is a straight line.")
    clip: float = Field(1.0, ge=0, description="Limit of the global gradient norm; 0 turns clipping off.")
    fused_backward: bool = Field(
        False,
        description="Update each weight as soon as its gradient is there, within the backward pass, and free the "
        "gradient: [full] training without the memory of gradients. Needs clip = 0 and accumulate = 1.",
    )
    offload: bool = Field(
        False,
        description="Keep the averages of adamw, adamw8bit or muon in the machine's memory; those of a weight visit "
        "the GPU for its update. For [full] training; results are the same.",
    )

    @property
    def by_path(self) -> bool:
        """Whether `kind` is the import path of a class."""
        return self.kind not in BUILT_IN


def default_of(key: str) -> Any:
    """The value of a key that a recipe does not give."""
    return Optimizer.model_fields[key].default
