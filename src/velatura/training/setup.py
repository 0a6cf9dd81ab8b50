"""What is settled before a run begins: the model, the data, the objective, the device."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch

from velatura.data.text.texts import why_texts_change
from velatura.interfaces import Family, ModelFiles, ModelInfo, Objective, PartName
from velatura.placement.attention import Attention
from velatura.plural import counted
from velatura.recipe.recipe import Recipe
from velatura.training.dataset import Dataset
from velatura.training.distribution.sharding import is_sharded
from velatura.training.distribution.team import Team
from velatura.training.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A run before its first weight is read."""

    recipe: Recipe
    family: Family
    files: ModelFiles
    info: ModelInfo
    objective: Objective
    dataset: Dataset
    folder: RunFolder
    device: torch.device
    dtype: torch.dtype
    attention: Attention = field(default_factory=Attention)
    team: Team = field(default_factory=Team)

    @property
    def sharded(self) -> bool:
        """Whether the denoiser's weights are shared out between processes. Raises RecipeError."""
        return is_sharded(self.recipe, self.team)

    @property
    def trained(self) -> tuple[PartName, ...]:
        """The parts whose behaviour training changes."""
        return tuple(self.recipe.full.parts) if self.recipe.full else ("denoiser",)

    @property
    def conditioned(self) -> bool:
        """Whether the objective reads captions at all."""
        return "denoiser" in self.objective.needs

    @property
    def caches_text(self) -> bool:
        """Whether captions are encoded once, ahead."""
        return self.conditioned and self.why_text_at_every_step is None

    @property
    def caches_latents(self) -> bool:
        """Whether images are encoded once, ahead."""
        return self.objective.reads == "latents" and self.why_images_at_every_step is None

    @cached_property
    def why_text_at_every_step(self) -> str | None:
        """Why captions cannot be encoded ahead, so that the text encoders stay loaded; None when they can."""
        if "text_encoders" in self.trained:
            return "the text encoders are trained"
        if not self.recipe.memory.cache:
            return "memory.cache = false"
        return why_texts_change(self.dataset.everything)

    @cached_property
    def why_images_at_every_step(self) -> str | None:
        """Why images cannot be encoded ahead, so that the autoencoder stays loaded; None when they can."""
        if not self.recipe.memory.cache:
            return "memory.cache = false"
        recoloured = {entry.item.name for entry in self.dataset.entries if entry.item.treatment.colour}
        if not recoloured:
            return None
        change = counted(len(recoloured), "image changes its", "images change their")
        return f"{change} colours from use to use (colour)"

    def encoded_at_every_step(self) -> list[str]:
        """One line for each encoder that the loop runs itself, with the reason: for the user."""
        lines = []
        if self.conditioned and not self.caches_text:
            lines.append(f"captions are encoded at every step: {self.why_text_at_every_step}")
        if self.objective.reads == "latents" and not self.caches_latents:
            lines.append(f"images are encoded at every step: {self.why_images_at_every_step}")
        return lines

    @property
    def caption_dropout(self) -> float:
        """Share of captions that training replaces by the empty one."""
        return float(getattr(self.recipe.objective, "caption_dropout", 0.0))

    @property
    def stays_loaded(self) -> tuple[PartName, ...]:
        """Parts that the loop itself needs."""
        parts = set(self.objective.needs)
        if self.conditioned and not self.caches_text:
            parts.add("text_encoders")
        if self.objective.reads == "latents" and (not self.caches_latents or self.recipe.previews.prompts):
            parts.add("autoencoder")
        return tuple(part for part in ("text_encoders", "autoencoder", "denoiser") if part in parts)

    @property
    def preview_size(self) -> int:
        """Edge of previews that name no size: about the size that is trained most."""
        width, height = max(self.dataset.plan.histogram.items(), key=lambda pair: pair[1])[0]
        return math.isqrt(width * height)
