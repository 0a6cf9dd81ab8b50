"""`[model]` of the `sd1` family: Stable Diffusion 1.x."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from velatura.recipe.families.files import ModelSection


class Sd1Model(ModelSection):
    """Stable Diffusion 1.x: a UNet, noise prediction, one CLIP encoder."""

    pipelines: ClassVar = ("StableDiffusionPipeline",)
    objectives: ClassVar = ("diffusion",)
    denoiser_folder: ClassVar = "unet"
    lora_formats: ClassVar = ("kohya", "diffusers")  # ComfyUI reads kohya's names and has none of its own

    family: Literal["sd1"] = Field("sd1", description="The architecture; left out, `model` tells it.")
    prediction: Literal["noise", "v"] | None = Field(
        None, description="What the denoiser predicts; default: as the scheduler's config says, else noise."
    )
