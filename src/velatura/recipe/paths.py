"""What a text in a recipe points at: a path on this machine, a hub id, or a model inside the package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from velatura.recipe.defaults import pocket_models
from velatura.recipe.lines import KeyPath
from velatura.recipe.problems import Problem
from velatura.recipe.recipe import Recipe
from velatura.recipe.schema import listing

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_ENDINGS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


def resolve(text: str, base: Path) -> Path:
    """A path from a recipe as an absolute path; relative ones start at `base`, `~` is the home folder."""
    return (base / Path(text).expanduser()).resolve()


def is_pocket(text: str) -> bool:
    """True for a model inside the package, `pocket/flux`."""
    return text.startswith("pocket/")


def is_hub_id(text: str) -> bool:
    """True for what looks like `org/name` on a hub, and not like a file."""
    return bool(_HUB_ID.fullmatch(text)) and not text.lower().endswith(_FILE_ENDINGS) and not is_pocket(text)


def missing_files(recipe: Recipe, base: Path) -> list[Problem]:
    """Local files and folders that the recipe names and that are not there, with where they were looked for."""
    problems = [problem for path, text in _sources(recipe) if (problem := _missing_source(path, text, base))]
    for path, text in _folders(recipe):
        place = resolve(text, base)
        if not place.is_dir():
            what = "is a file, and must be a folder" if place.exists() else "no such folder"
            problems.append(Problem(path=path, what=f"{what}: {place}"))
    if recipe.adapter and recipe.adapter.init_from:
        place = resolve(recipe.adapter.init_from, base)
        if not place.is_file():
            problems.append(Problem(path=("adapter", "init_from"), what=f"no such file: {place}"))
    return problems


def with_absolute_paths(recipe: Recipe, base: Path) -> Recipe:
    """The recipe with every local path made absolute, so that it means the same wherever it is read.

    Hub ids and models inside the package stay as they are.
    """

    def absolute(text: str | None) -> str | None:
        if text is None or is_pocket(text):
            return text
        place = resolve(text, base)
        return text if is_hub_id(text) and not place.exists() else str(place)

    model = recipe.model
    sources = {
        name: absolute(getattr(model, name)) for name in ("model", "denoiser", "autoencoder", "tokenizers")
    }
    encoders = [absolute(text) for text in model.text_encoders]
    changes: dict[str, object] = {
        "model": model.model_copy(update={**sources, "text_encoders": encoders}),
        "data": [data.model_copy(update={"folder": str(resolve(data.folder, base))}) for data in recipe.data],
    }
    if recipe.validation.folder:
        folder = str(resolve(recipe.validation.folder, base))
        changes["validation"] = recipe.validation.model_copy(update={"folder": folder})
    if recipe.adapter and recipe.adapter.init_from:
        start = str(resolve(recipe.adapter.init_from, base))
        changes["adapter"] = recipe.adapter.model_copy(update={"init_from": start})
    if recipe.memory.cache_folder:
        cache = str(resolve(recipe.memory.cache_folder, base))
        changes["memory"] = recipe.memory.model_copy(update={"cache_folder": cache})
    return recipe.model_copy(update=changes)


def _sources(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    model = recipe.model
    for name in ("model", "denoiser", "autoencoder", "tokenizers"):
        if text := getattr(model, name):
            yield ("model", name), text
    for index, text in enumerate(model.text_encoders):
        yield ("model", "text_encoders", index), text


def _folders(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    for index, data in enumerate(recipe.data):
        yield ("data", index, "folder"), data.folder
    if recipe.validation.folder:
        yield ("validation", "folder"), recipe.validation.folder


def _missing_source(path: KeyPath, text: str, base: Path) -> Problem | None:
    if is_pocket(text):
        known = pocket_models()
        return (
            None
            if text in known
            else Problem(path=path, what=f'received "{text}"; allowed: {listing(known)}')
        )
    place = resolve(text, base)
    if place.exists() or is_hub_id(text):
        return None
    return Problem(path=path, what=f"no such file or folder: {place}", hint="a hub id looks like org/name")
