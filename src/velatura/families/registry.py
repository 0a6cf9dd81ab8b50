"""From the recipe's `[model]` to its family."""

from __future__ import annotations

from pathlib import Path

from velatura.errors import ModelError
from velatura.families.flux import FluxFamily
from velatura.families.locate import locate
from velatura.families.sd1 import Sd1Family
from velatura.interfaces import Family, ModelFiles
from velatura.recipe.defaults import FAMILIES, family_of
from velatura.recipe.families.files import ModelSection
from velatura.recipe.families.flux import FluxModel
from velatura.recipe.families.sd1 import Sd1Model


def family_for(model: ModelSection) -> Family:
    """The family with the recipe's options."""
    if isinstance(model, FluxModel):
        return FluxFamily(text_length=model.text_length)
    if isinstance(model, Sd1Model):
        return Sd1Family(prediction=model.prediction)
    raise AssertionError(f"{type(model).__name__} has no family")


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


def family_named(model: str, base: Path) -> ModelSection:
    """The `[model]` section of a bare model name: 'pocket/flux', a diffusers folder, or a hub id.

    Raises ModelError when its family cannot be told.
    """
    name = family_of(model, base)
    if name is None:
        root = locate(model, base, patterns=("model_index.json",))
        name = family_of(str(root), base)
    if name is None:
        raise ModelError(
            f"the family of '{model}' cannot be told: it has no model_index.json of a known kind "
            f"({', '.join(FAMILIES)}). For single files give a recipe whose [model] names them: --recipe."
        )
    return FAMILIES[name](model=model)
