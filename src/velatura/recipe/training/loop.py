"""`[training]`, `[full]`, `[memory]`: how long, in what precision, on what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, field_validator

from velatura.errors import RecipeError
from velatura.recipe.byte_sizes import size_in_bytes
from velatura.recipe.families.files import Part
from velatura.recipe.path_keys import FileOrFolder, NewFolder
from velatura.recipe.section import Section

MOST_IMAGES = 2**16  # at once, or in a step: far more than fits, and nothing is laid out that could not be


class Training(Section):
    """The loop."""

    steps: int = Field(1000, ge=1, description="Optimizer steps.")
    batch_size: int = Field(
        1,
        ge=1,
        le=MOST_IMAGES,
        description="Images per batch; all have one size, and memory.micro_batch may split them.",
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        le=2**24,
        description="Image tokens per batch, in place of batch_size: the larger the images, the fewer.",
    )
    incomplete: Literal["small", "fill"] = Field(
        "small",
        description="What becomes of the last images of a size that make no full batch: a small batch, or a full "
        "one in which others of that size are used once more.",
    )
    accumulate: int = Field(1, ge=1, le=MOST_IMAGES, description="Batches per optimizer step.")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="Of the frozen weights and the computation; auto: bf16 where it is native, else fp32.",
    )
    compile: Literal["auto"] | bool = Field(
        "auto", description="Compile the repeated blocks; auto: when it pays."
    )
    attention: Literal["sdpa", "flash", "flash3", "sage", "xformers"] = Field(
        "sdpa",
        description="Kernel of the denoiser's attention: torch's own, or that of a package that is installed (flash: "
        "flash-attn; flash3: flash-attn 3). Where it cannot be had a warning says why, and sdpa is used. sage has no "
        "backward pass: it is for `velatura generate`.",
    )
    checkpoint_blocks: StrictBool | Literal["mlp"] | Annotated[StrictInt, Field(ge=2)] = Field(
        False,
        description="Recompute blocks in the backward pass instead of keeping what they computed: true all of them (a "
        "quarter more time with [full], two fifths with [adapter]), 2 every second one (3 every third, ...), 'mlp' "
        "their feed-forward parts alone.",
    )
    skip_nonfinite: int = Field(
        0,
        ge=0,
        description="Steps of the run that may be left out because their loss or gradient is not finite; the next one "
        "stops the run. Steps that fp16's loss scaling skips are counted apart.",
    )
    retry_on_oom: bool = Field(
        False,
        description="Where memory runs out, repeat the step in smaller forward passes, with the same result.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="'cuda', 'cuda:1', 'mps', 'cpu'; auto takes the best there is.",
    )
    save_every: int | None = Field(None, ge=1, description="Save a state and the weights every N steps.")
    resume: Literal["latest"] | None = Field(
        None,
        description="latest: go on from the newest whole state, or begin where there is none; as --resume does.",
    )
    live: bool = Field(
        False,
        description="Read this file again after each epoch, and take over what changed in learning_rate, clip, steps, "
        "save_every, every (validation, previews), keep_states, keep_exports and keep_every.",
    )


class Full(Section):
    """Train whole parts instead of an adapter."""

    parts: list[Part] = Field(["denoiser"], min_length=1, description="Parts whose weights are trained.")
    only: str | None = Field(
        None,
        description="Train only weights whose path in the part matches this pattern, such as 'decoder.*'.",
    )
    weights: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Of the parts that are trained. bf16: weights and gradients in half the memory; updates are "
        "computed in fp32 and rounded at random, so that small ones count on average.",
    )
    init_from: FileOrFolder | None = Field(
        None,
        description="Start from the values in a state's folder of another run, or from the parts in a model's folder "
        "or file.",
    )


Planned = Literal[  # what a plan chooses by itself: all else changes what is learned, or is a matter of taste
    "memory.weights",
    "memory.streamed",
    "memory.offload_activations",
    "memory.text_encoders",
    "memory.autoencoder",
    "memory.micro_batch",
    "optimizer.offload",
    "previews.streamed",
    "training.checkpoint_blocks",
]


class Memory(Section):
    """How much of it may be used, how frozen weights are held, and where caches are."""

    budget: str | None = Field(
        None,
        examples=["24GiB"],
        description="What the run may use of its device. A plan, made before weights are read, chooses what the recipe "
        "leaves open of weights, streamed, micro_batch, offload_activations, text_encoders, autoencoder, "
        "optimizer.offload, previews.streamed and training.checkpoint_blocks; what cannot be met is refused. Default: "
        'what is free on a GPU, and no plan on the CPU. memory = "24GiB" at the top is the same.',
    )
    planned: list[Planned] = Field(
        [],
        description="Keys that such a plan chose: a run writes them into its recipe.toml, and takes their values from "
        "there when it goes on.",
    )
    weights: Literal["full", "fp8", "int8", "nf4"] = Field(
        "full",
        description="Of the denoiser under an adapter: full is training.precision; fp8 and int8 keep the blocks in 8 "
        "bits, half of bf16, and are a little less exact. int8 also multiplies in 8 bits. nf4 keeps them in 4 bits, "
        "less exactly. fp8 keeps a file that is in fp8 as it is.",
    )
    autoencoder: Literal["auto", "whole", "sliced", "tiled"] = Field(
        "auto",
        description="How images are encoded and previews decoded: whole; sliced: in strips, with the same result in "
        "less memory; tiled: decoded in tiles, with the same result in the least memory and the most time; auto: whole "
        "up to 1280 x 1280 pixels, sliced above.",
    )
    streamed: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the denoiser's block weights that is kept in the machine's memory and visits the GPU to "
        "be computed with, in the forward and in the backward pass; where they are trained, they are also recomputed, "
        "and gradients (with optimizer.fused_backward: new weights) go back. Results are the same.",
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        le=MOST_IMAGES,
        description="Images in a forward pass at most: a larger batch is computed in several passes of about equal "
        "size, with the same results up to rounding. Default: the whole batch.",
    )
    offload_activations: bool = Field(
        False,
        description="Keep the inputs of blocks that are recomputed in the machine's memory until the backward pass; "
        "results are the same.",
    )
    split_attention: bool = Field(
        False,
        description="Compute the denoiser's attention for one image of the batch at a time: less memory where it has "
        "no fused kernel (mps, old GPUs), the same results up to rounding.",
    )
    text_encoders: Literal["auto", "cpu"] = Field(
        "auto",
        description="Where the text encoders are run: auto: on training.device, and released before the denoiser is "
        "loaded where captions are cached; cpu: in the machine's memory, slower, where the device cannot hold them.",
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

    @field_validator("budget")
    @classmethod
    def _is_a_size(cls, budget: str | None) -> str | None:
        try:
            if budget is not None:
                size_in_bytes(budget)
        except RecipeError as error:
            raise ValueError(str(error)) from error
        return budget
