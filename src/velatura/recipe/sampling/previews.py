"""`[previews]` and `[output]`: what a run shows and leaves behind."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from velatura.recipe.sampling.request import LARGEST_EDGE
from velatura.recipe.section import Section


class Previews(Section):
    """Images painted during training, from fixed seeds."""

    every: int | None = Field(None, ge=1, description="Steps between previews; default: ten times a run.")
    prompts: list[str] = Field(
        [],
        description="One per image; options as in 'a dog --w 1024 --h 768 --d 7 --s 28 --g 3.5 --l 1 --n blurry'.",
    )
    baseline: bool = Field(True, description="Also paint before step 1.")
    steps: int = Field(20, ge=1, le=1000, description="Sampling steps where the prompt names none.")
    size: int | None = Field(
        None, ge=16, le=LARGEST_EDGE, description="Edge where the prompt names none; default: the data's."
    )
    guidance: float | None = Field(
        None, ge=0, description="Distilled guidance, where the model has it; default: the model's own."
    )
    cfg: float | None = Field(
        None, ge=0, description="True classifier-free guidance; 1 turns it off. Default: the model's own."
    )
    negative: str = Field("", description="Negative prompt, used when cfg is not 1.")
    streamed: float | None = Field(
        None,
        ge=0,
        le=1,
        description="As memory.streamed, while previews are painted: they keep no activations, so that more blocks fit "
        "on the device, and are not copied at every step; layers that are run once for all steps are streamed anyway. "
        "Default: what memory.streamed says, where no plan chooses.",
    )


class Output(Section):
    """Where results go."""

    folder: str = Field("runs", description="The run's folder is <folder>/<name>.")
    formats: list[Literal["kohya", "diffusers", "comfy"]] = Field(
        ["kohya"], min_length=1, description="LoRA key layouts to write."
    )
    keep_states: int = Field(2, ge=1, description="Exact states to keep; older ones are removed.")
    keep_exports: int | None = Field(
        None, ge=1, description="Steps whose adapter files or models are kept; default: all."
    )
    keep_every: int | None = Field(
        None, ge=1, description="States and exports whose step is a multiple of this stay for good."
    )
    wandb: str | None = Field(
        None,
        min_length=1,
        description="A project of Weights & Biases that losses and previews are sent to; needs velatura[wandb].",
    )
    save_dtype: Literal["bf16", "fp16", "fp32"] = Field("bf16", description="Of the saved weights.")
