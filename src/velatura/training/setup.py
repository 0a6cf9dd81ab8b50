"""What is settled before a run begins: the model, the data, the objective, the device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from velatura.data.fill import texts_are_listed
from velatura.interfaces import Family, ModelFiles, ModelInfo, Objective, PartName
from velatura.recipe.recipe import Recipe
from velatura.training.dataset import Dataset
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

    @property
    def trained(self) -> tuple[PartName, ...]:
        """The parts whose behaviour training changes."""
        return tuple(self.recipe.full.parts) if self.recipe.full else ("denoiser",)

    @property
    def conditioned(self) -> bool:
        """Whether the objective reads captions at all."""
        return "denoiser" in self.objective.needs

    @cached_property
    def caches_text(self) -> bool:
        """Whether captions are encoded once, ahead."""
        if not self.conditioned or not self.recipe.memory.cache or "text_encoders" in self.trained:
            return False
        return texts_are_listed((*self.dataset.entries, *self.dataset.held_out))

    @cached_property
    def caches_latents(self) -> bool:
        """Whether images are encoded once, ahead."""
        recoloured = any(entry.item.treatment.colour for entry in self.dataset.entries)
        return self.objective.reads == "latents" and self.recipe.memory.cache and not recoloured

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
