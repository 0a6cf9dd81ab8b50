"""`[training]`, `[full]`, `[ema]`, `[validation]`, `[memory]`: how long, in what precision, on what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from velatura.recipe.families.files import Part
from velatura.recipe.path_keys import FolderPath, NewFolder
from velatura.recipe.section import Section

MOST_IMAGES = 2**16  # at once, or in a step: far more than fits, and nothing is laid out that could not be


class Training(Section):
    """The loop."""

    steps: int = Field(1000, ge=1, description="Optimizer steps.")
    batch_size: int = Field(1, ge=1, le=MOST_IMAGES, description="Images per forward pass.")
    batch_tokens: int | None = Field(
        None,
        ge=1,
        le=2**24,
        description="Image tokens per forward pass, in place of batch_size: the larger the images, the fewer.",
    )
    incomplete: Literal["small", "fill"] = Field(
        "small",
        description="What becomes of the last images of a size that make no full batch: a small batch, or a full "
        "one in which others of that size are used once more.",
    )
    accumulate: int = Field(1, ge=1, le=MOST_IMAGES, description="Forward passes per optimizer step.")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="Of the frozen weights and the computation; auto: bf16 where it is native, else fp32.",
    )
    compile: Literal["auto"] | bool = Field(
        "auto", description="Compile the repeated blocks; auto: when it pays."
    )
    checkpoint_blocks: bool = Field(
        False, description="Recompute blocks in the backward pass: less memory, slower."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="'cuda', 'cuda:1', 'mps', 'cpu'; auto takes the best there is.",
    )
    save_every: int | None = Field(None, ge=1, description="Save a state and the weights every N steps.")


class Full(Section):
    """Train whole parts instead of an adapter."""

    parts: list[Part] = Field(["denoiser"], min_length=1, description="Parts whose weights are trained.")
    only: str | None = Field(
        None,
        description="Train only weights whose path in the part matches this pattern, such as 'decoder.*'.",
    )


class Ema(Section):
    """Exponential moving average of the trained weights; saved and previewed in their place."""

    decay: float = Field(0.999, gt=0, lt=1, description="decay = min(decay, (1 + step) / (10 + step)).")


class Validation(Section):
    """Loss on held-out images at fixed noise and fixed times."""

    share: float = Field(0.0, ge=0, lt=1, description="Share of the images held out of training.")
    folder: FolderPath | None = Field(None, description="A folder of its own for validation images.")
    seed: int | None = Field(
        None, ge=0, description="Chooses which images are held out; default: the recipe's seed."
    )
    every: int = Field(100, ge=1, description="Steps between validations.")
    times: int = Field(4, ge=1, le=32, description="Noise levels per image, evenly spaced.")


class Memory(Section):
    """How frozen weights are held, and where caches are."""

    weights: Literal["full", "fp8"] = Field(
        "full",
        description="Of the denoiser under an adapter: full is training.precision; fp8 keeps the blocks in 8 bits, "
        "half of bf16, and is a little less exact.",
    )

    cache_folder: NewFolder | None = Field(
        None, description="Where latents and text embeddings are kept; default: the user's cache folder."
    )
    cache: bool = Field(
        True, description="Cache latents and text embeddings; false encodes them at every step."
    )
    cached_latents: Literal["mean", "sample"] = Field(
        "mean",
        description="What each use takes of the autoencoder's posterior: its mean, or a fresh sample, as it is without "
        "a cache. That takes twice the room on disk.",
    )
