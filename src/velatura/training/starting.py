"""The weights that a run begins with, where `init_from` names others than the model's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from velatura.checkpoints.fingerprint import fingerprint
from velatura.errors import CheckpointError, RecipeError
from velatura.interfaces import ModelFiles
from velatura.recipe.paths import FILE_ENDINGS
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import read_recipe
from velatura.training.folder import RunFolder
from velatura.training.states.identity import Identity
from velatura.training.states.state import is_state, read_values, values_files
from velatura.training.trainables import Trainables

MODEL = "a model"  # full.init_from names one; its weights are in the model's own fingerprints


def without_start(recipe: Recipe, saved: Identity, run: RunFolder) -> tuple[Recipe, dict[str, str]]:
    """A run that goes on needs no `init_from` that is a state: its own state has the values.

    Where that state is gone, or is not named again, the recipe without it and what the run began with, as
    `identity_of_start` says it. Raises RecipeError for a file, which has the layers that are trained.
    """
    section, source = _init_from(recipe)
    known = saved.recipe.get(f"{section}.init_from")
    if known is None or (source is not None and Path(source).exists()):
        return recipe, {}
    began = _began_with(run, section)
    if began is None or began.lower().endswith(FILE_ENDINGS) or known == MODEL:
        what = f"{section}.init_from: this run began with {began or 'a file'}, which has what it trains. "
        again = "Give --init-from again" if source is None else f"Put it back: {source} is not there"
        raise RecipeError(what + again)
    part = getattr(recipe, section).model_copy(update={"init_from": None})
    return recipe.model_copy(update={section: part}), {f"{section}.init_from": known}


def _began_with(run: RunFolder, section: str) -> str | None:
    """`init_from` in the recipe that the run was begun or gone on with; empty where it did without, None if unknown."""
    try:
        written = getattr(read_recipe(run.recipe).recipe, section)
    except RecipeError:
        return None
    return None if written is None else written.init_from or ""


def files_to_begin_with(files: ModelFiles, recipe: Recipe) -> ModelFiles:
    """The model's files, the trained parts replaced where `full.init_from` is a model. Raises CheckpointError."""
    if recipe.full is None or recipe.full.init_from is None or _state(recipe) is not None:
        return files
    source = recipe.full.init_from
    if "denoiser" in recipe.full.parts:
        files = replace(files, denoiser=source)
    if "autoencoder" in recipe.full.parts:
        files = replace(files, autoencoder=source)
    if "text_encoders" in recipe.full.parts:
        files = replace(files, text_encoders=(source,))
    return files


def take_values(trainables: Trainables, recipe: Recipe) -> None:
    """Overwrite what is trained with the values of the state that `init_from` names, if it names one.

    Raises CheckpointError for a state that is damaged, or has other layers.
    """
    if (path := _state(recipe)) is None:
        return
    try:
        trainables.set_values(read_values(path))
    except CheckpointError as error:
        raise CheckpointError(
            f"init_from: {path} does not fit this recipe: {error}. It must train the same layers or weights; "
            "an adapter's file (adapters/…) brings its own"
        ) from error


def identity_of_start(recipe: Recipe) -> dict[str, str]:
    """`init_from` by its content, as far as the model's own fingerprints do not tell it. Raises CheckpointError."""
    section, source = _init_from(recipe)
    if source is None:
        return {}
    if (path := _state(recipe)) is not None:
        return {f"{section}.init_from": fingerprint(values_files(path))}
    return {f"{section}.init_from": fingerprint(source) if section == "adapter" else MODEL}


def _init_from(recipe: Recipe) -> tuple[str, str | None]:
    if recipe.adapter is not None:
        return "adapter", recipe.adapter.init_from
    return "full", recipe.full.init_from if recipe.full else None


def _state(recipe: Recipe) -> Path | None:
    """The state that `init_from` names. Raises CheckpointError for a folder that is neither state nor model."""
    section, source = _init_from(recipe)
    if source is None or not (path := Path(source)).is_dir():
        return None
    if is_state(path):
        return path
    if section == "full":
        return None
    raise CheckpointError(
        f"adapter.init_from: {path} is no state of a run; a state is a folder such as runs/my-dog/state/001500. "
        "Allowed too: an adapter's file"
    )
