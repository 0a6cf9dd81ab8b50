"""`[model]` of the `flux` family: FLUX.1 dev, schnell and Krea."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from velatura.recipe.families.files import ModelSection

GUIDANCE = 3.5  # of models whose sampling times are shifted, whether they have an input for it or not


class FluxModel(ModelSection):
    """FLUX.1; guidance-distilled or not is told from the weights."""

    pipelines: ClassVar = ("FluxPipeline",)
    objectives: ClassVar = ("flow",)
    patch: ClassVar = 2
    guidance_key: ClassVar = "guidance_embeds"
    denoiser_folder: ClassVar = "transformer"

    family: Literal["flux"] = Field("flux", description="The architecture; left out, `model` tells it.")
    text_length: int | None = Field(
        None, ge=8, le=512, description="T5 tokens per prompt; default 512, schnell 256, pocket 28."
    )
    guidance: float = Field(
        1.0,
        ge=0,
        description="Distilled guidance fed to the denoiser in training, where the model has it.",
    )

    @classmethod
    def default_guidance(cls, scheduler: Mapping[str, Any]) -> float:
        """See `ModelSection.default_guidance`."""
        return GUIDANCE if scheduler.get("use_dynamic_shifting") else 0.0
