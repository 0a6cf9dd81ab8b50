"""`[validation]`, `[[validation_sets]]`: what is measured at fixed noise and fixed times, and how often."""

from __future__ import annotations

from pydantic import Field

from velatura.recipe.path_keys import FolderPath
from velatura.recipe.section import Section

HELD_OUT = "validation"  # the name of what `share` and `folder` hold out
STABILIZED = "train-stabilized"  # the name of what `training_share` measures
TAKEN = ("train", HELD_OUT, STABILIZED)  # names of losses that no set can have


class Validation(Section):
    """Loss on held-out images at fixed noise and fixed times."""

    share: float = Field(0.0, ge=0, lt=1, description="Share of the images held out of training.")
    folder: FolderPath | None = Field(None, description="A folder of its own for validation images.")
    seed: int | None = Field(
        None, ge=0, description="Chooses which images are held out; default: the recipe's seed."
    )
    training_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the training images on which the loss is taken in the same way; they stay in training.",
    )
    every: int = Field(100, ge=1, description="Steps between validations.")
    times: int = Field(4, ge=1, le=32, description="Noise levels per image, evenly spaced.")


class ValidationSet(Section):
    """Validation images of their own, with a loss of their own."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$", description="What the loss is called: loss/<name>."
    )
    folder: FolderPath = Field(description="The folder; its images are treated as the first [[data]] says.")
