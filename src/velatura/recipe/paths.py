"""What a text in a recipe points at: a path on this machine, a hub id, or a model inside the package."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from velatura.recipe.defaults import pocket_models
from velatura.recipe.path_keys import NamedPath, named_paths, with_texts
from velatura.recipe.problems import Problem
from velatura.recipe.recipe import Recipe
from velatura.recipe.schema import listing

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_Check = Callable[[NamedPath, Path], Problem | None]
FILE_ENDINGS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


def resolve(text: str, base: Path) -> Path:
    """A path from a recipe as an absolute path; relative ones start at `base`, `~` is the home folder."""
    return Path(os.path.realpath(base / Path(text).expanduser()))  # a link to itself stays as it is


def is_pocket(text: str) -> bool:
    """True for a model inside the package, `pocket/flux`."""
    return text.startswith("pocket/")


def is_hub_id(text: str) -> bool:
    """True for what looks like `org/name` on a hub, and not like a file."""
    return bool(_HUB_ID.fullmatch(text)) and not text.lower().endswith(FILE_ENDINGS) and not is_pocket(text)


def missing_files(recipe: Recipe, base: Path) -> list[Problem]:
    """Local files and folders that the recipe names and that are not there, with where they were looked for."""
    checks = {
        "file": _missing_file,
        "folder": _missing_folder,
        "either": _missing_either,
        "model": _missing_model,
    }
    named = [(checks[path.names.what], path) for path in named_paths(recipe) if path.names.what in checks]
    return [problem for check, path in named if (problem := _looked_for(check, path, base))]


def with_absolute_paths(recipe: Recipe, base: Path) -> Recipe:
    """The recipe with every local path made absolute, so that it means the same wherever it is read.

    Hub ids and models inside the package stay as they are.
    """
    changed: Recipe = with_texts(recipe, {path.at: _absolute(path, base) for path in named_paths(recipe)})
    return changed


def split_pattern(text: str) -> tuple[str, str]:
    """A folder and a pattern of names in it, `masks/*_mask`; without `*` in the last part there is only a folder."""
    path = Path(text)
    return (str(path.parent), path.name) if "*" in path.name else (text, "")


def _absolute(path: NamedPath, base: Path) -> str:
    text = path.text
    if path.names.what == "model" and (
        is_pocket(text) or (is_hub_id(text) and not resolve(text, base).exists())
    ):
        return text
    folder, pattern = split_pattern(text)
    return str(resolve(folder, base) / pattern)


def _looked_for(check: _Check, path: NamedPath, base: Path) -> Problem | None:
    """What is wrong with a place, also where the system refuses to say so: a folder above may not be entered."""
    try:
        return check(path, base)
    except PermissionError as error:
        return Problem(
            path=path.at,
            what=f"cannot be read: {error.filename}: {error.strerror}",
            hint="give another place, or the right to read this one and to enter every folder above it",
        )


def _missing_file(path: NamedPath, base: Path) -> Problem | None:
    place = resolve(path.text, base)
    if place.is_file():
        return None
    what = "is a folder, and must be a file" if place.exists() else "no such file"
    return Problem(path=path.at, what=f"{what}: {place}")


def _missing_folder(path: NamedPath, base: Path) -> Problem | None:
    place = resolve(split_pattern(path.text)[0], base)
    if place.is_dir():
        return None
    what = "is a file, and must be a folder" if place.exists() else "no such folder"
    return Problem(path=path.at, what=f"{what}: {place}")


def _missing_either(path: NamedPath, base: Path) -> Problem | None:
    place = resolve(path.text, base)
    return None if place.exists() else Problem(path=path.at, what=f"no such file or folder: {place}")


def _missing_model(path: NamedPath, base: Path) -> Problem | None:
    text = path.text
    if is_pocket(text):
        known = pocket_models()
        what = f'received "{text}"; allowed: {listing(known)}'
        return None if text in known else Problem(path=path.at, what=what)
    place = resolve(text, base)
    if place.exists() or is_hub_id(text):
        return None
    return Problem(path=path.at, what=f"no such file or folder: {place}", hint="a hub id looks like org/name")
