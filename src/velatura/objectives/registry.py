"""From the recipe's `[objective]` to the objective itself."""

from __future__ import annotations

from velatura.interfaces import Objective
from velatura.objectives.autoencoder import Autoencoder
from velatura.objectives.diffusion import Diffusion
from velatura.objectives.flow import Flow
from velatura.recipe.objectives.autoencoder import AutoencoderObjective
from velatura.recipe.objectives.diffusion import DiffusionObjective
from velatura.recipe.objectives.flow import FlowObjective
from velatura.recipe.recipe import Recipe


def objective_for(recipe: Recipe) -> Objective:
    """The objective that the recipe names."""
    config = recipe.objective
    if isinstance(config, FlowObjective):
        return Flow(config, guidance=getattr(recipe.model, "guidance", 1.0))
    if isinstance(config, DiffusionObjective):
        return Diffusion(config)
    assert isinstance(config, AutoencoderObjective)
    return Autoencoder(config)
