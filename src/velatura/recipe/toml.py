"""A recipe from TOML: read, changed by `--set`, completed, checked; all mistakes come in one error."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from velatura.errors import RecipeError
from velatura.recipe.defaults import fill_in
from velatura.recipe.dump import dump_recipe
from velatura.recipe.errors import explain, wanted_texts
from velatura.recipe.lines import KeyPath, key_lines
from velatura.recipe.overrides import BadOverride, Override, apply_override, apply_texts, parse_override
from velatura.recipe.paintable import unpaintable
from velatura.recipe.paths import missing_files
from velatura.recipe.plain_toml import read_toml
from velatura.recipe.problems import InvalidRecipe, Problem, Source
from velatura.recipe.recipe import Recipe
from velatura.recipe.schema import variants

__all__ = ["LoadedRecipe", "dump_recipe", "load_recipe", "parse_recipe", "read_recipe"]


@dataclass(frozen=True, kw_only=True)
class LoadedRecipe:
    """A recipe and where it came from; its relative paths start at `base`."""

    recipe: Recipe
    path: Path
    base: Path


def load_recipe(path: Path, sets: Sequence[str] = (), *, may_lack: Collection[KeyPath] = ()) -> LoadedRecipe:
    """Read and check a recipe file, and with what it names: that it is there, and that previews fit the model.

    `may_lack`: keys whose file need not be there. Raises RecipeError.
    """
    loaded = read_recipe(path, sets)
    recipe, base = loaded.recipe, loaded.base
    missing = [problem for problem in missing_files(recipe, base) if problem.path not in may_lack]
    if problems := [*missing, *unpaintable(recipe, base)]:
        raise InvalidRecipe(problems, _source(str(path), _text(path), _overrides(sets)[0]))
    return loaded


def read_recipe(path: Path, sets: Sequence[str] = ()) -> LoadedRecipe:
    """Read and check a recipe file; what it names may be gone by now. Raises RecipeError."""
    base = path.parent.resolve()
    recipe = parse_recipe(_text(path), source=str(path), sets=sets, base=base)
    return LoadedRecipe(recipe=recipe, path=path.resolve(), base=base)


def parse_recipe(
    text: str, source: str = "the recipe", sets: Sequence[str] = (), base: Path | None = None
) -> Recipe:
    """A recipe from TOML text and `section.key=value` changes. Files it names are not looked for. Raises RecipeError.

    `base` is where a relative `model` starts, when that folder must tell the family; default: the working folder.
    """
    table = _table(text, source)
    if isinstance(budget := table.get("memory"), str):  # the short form; --set may add to it
        table["memory"] = {"budget": budget}
    overrides, problems = _overrides(sets)
    for override in overrides:
        try:
            apply_override(table, override)
        except BadOverride as error:
            problems.append(error.problem)
    problems += fill_in(table, base or Path())
    recipe, mistakes = _validate(table, overrides)
    known = {problem.path for problem in problems}
    problems += [problem for problem in mistakes if problem.path not in known]
    if recipe is None or problems:
        raise InvalidRecipe(problems, _source(source, text, overrides))
    return recipe


def _validate(table: dict[str, Any], overrides: Sequence[Override]) -> tuple[Recipe | None, list[Problem]]:
    try:
        return Recipe.model_validate(table), []
    except ValidationError as error:
        if apply_texts(table, overrides, wanted_texts(error, Recipe)):
            return _validate(table, ())
        return None, explain(error, Recipe)


def _overrides(sets: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    overrides, problems = [], []
    for option in sets:
        try:
            overrides.append(parse_override(option))
        except BadOverride as error:
            problems.append(error.problem)
    return overrides, problems


def _source(name: str, text: str, overrides: Sequence[Override]) -> Source:
    headers = {variant.name: variant.header for variant in variants(Recipe)}
    return Source(
        name=name, lines=key_lines(text), overrides={o.path: o.option for o in overrides}, headers=headers
    )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise RecipeError(
            f"no recipe at {path.resolve()}; `velatura recipe new KIND` prints one to start from"
        ) from None
    except IsADirectoryError:
        raise RecipeError(f"{path.resolve()} is a folder; a recipe is one TOML file") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (byte {error.start}); a recipe is a TOML file") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error


def _table(text: str, source: str) -> dict[str, Any]:
    try:
        return read_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(_syntax_message(str(error), text, source)) from None
    except ValueError as error:
        raise RecipeError(f"{source} is no recipe: {error}") from None


def _syntax_message(message: str, text: str, source: str) -> str:
    """The parser's message with the line it stumbled over, and what most often is behind it."""
    found = re.search(r"\(at line (\d+), column (\d+)\)", message)
    lines = text.split("\n")
    number = int(found[1]) if found else len(lines)
    line = lines[number - 1].strip() if number <= len(lines) else ""
    what = message[: found.start()].strip() if found else message
    hints = {
        "\\": "in double quotes a backslash is special: write C:/photos, or use single quotes",
        "Invalid value": 'texts need quotes: name = "my-dog"',
        "Cannot overwrite": "a key or section may appear once",
        "Cannot declare": "a section may appear once; only [[data]] may be repeated",
    }
    hint = next((hint for word, hint in hints.items() if word in message), "")
    shown = [f"{source} is not valid TOML", f"  line {number}: {line[:100]}", f"    {what}"]
    return "\n".join([*shown, *([f"    {hint}"] if hint else [])])
