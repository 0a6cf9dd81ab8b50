"""Reads a dataset file of sd-scripts; every mistake in it is told with its place and what is allowed there."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from velatura.data.sources.sd_scripts_keys import DatasetFile, EveryLevel, General, Subset
from velatura.errors import DataError
from velatura.plural import counted
from velatura.recipe.errors import explain, nearest
from velatura.recipe.lines import KeyPath, key_lines, nearest_line
from velatura.recipe.plain_toml import read_toml
from velatura.recipe.problems import Problem

_HOMES = {EveryLevel: "", General: "[general] or [[datasets]]", Subset: "[[datasets.subsets]]"}
# what guides and other programs call a key
_ALIASES = {
    "interpolation_type": "resize_interpolation",
    "repeats": "num_repeats",
    "dataset_repeats": "num_repeats",
    "train_batch_size": "batch_size",
    "train_data_dir": "image_dir",
    "in_json": "metadata_file",
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A file's name in messages, and in which line each key stands as far as that is known."""

    name: str
    lines: dict[KeyPath, int]

    def refusal(self, problems: Sequence[Problem]) -> DataError:
        """All mistakes as one error, in the order of the file."""
        ordered = sorted(problems, key=lambda problem: nearest_line(self.lines, problem.path) or 0)
        count = counted(len(ordered), "mistake")
        return DataError("\n".join([f"dataset file '{self.name}' has {count}", *map(self._entry, ordered)]))

    def _entry(self, problem: Problem) -> str:
        line = nearest_line(self.lines, problem.path)
        head = f"line {line}: {place(problem.path)}" if line else place(problem.path)
        return f"  {head}\n    {problem.what}" + (f"\n    {problem.hint}" if problem.hint else "")


def place(path: KeyPath) -> str:
    """A path into the file in words: `[[datasets]] 2, [[subsets]] 1, flip_aug`."""
    parts: list[str] = []
    for before, part in zip((None, *path), path, strict=False):
        if isinstance(part, int) and before in ("datasets", "subsets"):
            parts[-1] = f"[[{before}]] {part + 1}"
        else:
            parts.append(f"[{part}]" if part == "general" and before is None else str(part))
    return ", ".join(parts)


def read_dataset_file(name: str, path: Path) -> tuple[DatasetFile, Origin]:
    """The file's content, of the right keys and types. Raises DataError with all that is wrong in it."""
    text = _text(name, path)
    if path.suffix.lower() == ".toml":
        table, lines = _toml(name, text), key_lines(text)
    elif path.suffix.lower() == ".json":
        table, lines = _json(name, text), {}
    else:
        raise DataError(f"dataset file '{name}' ends in '{path.suffix}'; allowed: .toml, .json.")
    origin = Origin(name=name, lines=lines)
    try:
        return DatasetFile.model_validate(table), origin
    except ValidationError as error:
        problems = [_with_own_hint(problem) for problem in explain(error, DatasetFile)]
        raise origin.refusal(problems) from None


def _with_own_hint(problem: Problem) -> Problem:
    """An unknown key may be known on another level, or under another name."""
    if problem.what != "unknown key":
        return problem
    key = str(problem.path[-1])
    for level, home in _HOMES.items():
        if home and key in level.model_fields and key not in EveryLevel.model_fields:
            return replace(problem, hint=f"{key} belongs in {home}")
    known = _known_at(problem.path)
    close = _ALIASES.get(key) or nearest(key, known)
    return replace(problem, hint=f"did you mean {close}?" if close else f"known here: {', '.join(known)}")


def _known_at(path: KeyPath) -> list[str]:
    level = DatasetFile if len(path) == 1 else Subset if "subsets" in path else General
    return list(level.model_fields)


def _text(name: str, path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise DataError(
            f"dataset file '{name}' does not exist (looked for {path.absolute()}). "
            "Relative paths start at the recipe's own folder."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"dataset file '{name}' is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        raise DataError(f"dataset file '{name}' cannot be read: {error.strerror or error}.") from error


def _toml(name: str, text: str) -> dict[str, Any]:
    try:
        return read_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"dataset file '{name}' is not valid TOML: {error}.") from None
    except ValueError as error:
        raise DataError(f"dataset file '{name}' cannot be used: {error}.") from None


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"dataset file '{name}', line {error.lineno}, column {error.colno}: not JSON: {error.msg}."
        ) from None
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"dataset file '{name}' cannot be read: {error}.") from None
    except RecursionError:
        raise DataError(f"dataset file '{name}' is nested too deeply.") from None
