"""From the recipe's `[model]` to its family."""

from __future__ import annotations

from pathlib import Path

from velatura.families.flux import FluxFamily
from velatura.interfaces import Family, ModelFiles
from velatura.recipe.families.files import ModelSection
from velatura.recipe.families.flux import FluxModel


def family_for(model: ModelSection) -> Family:
    """The family with the recipe's options."""
    assert isinstance(model, FluxModel)
    return FluxFamily(text_length=model.text_length)


def files_of(model: ModelSection, base: Path) -> ModelFiles:
    """Where the parts are; relative paths start at `base`."""
    return ModelFiles(
        model=model.model,
        denoiser=model.denoiser,
        autoencoder=model.autoencoder,
        text_encoders=tuple(model.text_encoders),
        tokenizers=model.tokenizers,
        from_scratch=tuple(model.from_scratch),
        base=base,
    )
