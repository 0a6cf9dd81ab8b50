"""`[model]` keys that all families share: where each part comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from velatura.recipe.path_keys import ModelPath
from velatura.recipe.section import Section

Part = Literal["denoiser", "autoencoder", "text_encoders"]


class ModelSection(Section):
    """Where the parts come from; each may be a file, a folder or a hub id."""

    pipelines: ClassVar[tuple[str, ...]]  # classes in a diffusers folder's model_index.json
    objectives: ClassVar[tuple[str, ...]]  # objectives that teach the denoiser, the default first
    lora_formats: ClassVar[tuple[str, ...]] = ("kohya", "diffusers", "comfy")
    latent_scale: ClassVar[int] = 8  # pixels per latent pixel, where the autoencoder's config is not at hand
    patch: ClassVar[int] = 1  # latent pixels per token: edges are multiples of latent_scale * patch
    guidance_key: ClassVar[str | None] = None  # of the denoiser's config: whether it reads distilled guidance
    denoiser_folder: ClassVar[str]  # of a diffusers folder

    model: ModelPath | None = Field(
        None, description="All parts: 'pocket/flux', a diffusers folder or a hub id."
    )
    denoiser: ModelPath | None = Field(
        None, description="The denoiser alone: a single file, a folder or a hub id."
    )
    autoencoder: ModelPath | None = Field(
        None, description="The autoencoder alone: a single file, a folder or a hub id."
    )
    text_encoders: list[ModelPath] = Field([], description="Text encoder files or folders, in any order.")
    tokenizers: ModelPath | None = Field(None, description="Folder or hub id that holds the tokenizers.")
    from_scratch: list[Part] = Field(
        [], description="Parts that start from random weights, shaped by the config in `model`."
    )

    @classmethod
    def default_guidance(cls, scheduler: Mapping[str, Any]) -> float:
        """The distilled guidance of a model with this scheduler's config (empty: unknown), where nothing is said."""
        return 0.0
