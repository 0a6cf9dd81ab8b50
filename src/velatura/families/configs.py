"""What the JSON files of a diffusers folder say besides the weights: the scheduler, our defaults."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from velatura.errors import ModelError
from velatura.families.locate import locate
from velatura.interfaces import ModelFiles, SamplingDefaults

SCHEDULER = "scheduler/scheduler_config.json"
DEFAULTS = "velatura.json"


def scheduler_config(files: ModelFiles) -> dict[str, Any] | None:
    """The scheduler's config of the model's folder; None for single files."""
    return _of_model(files, SCHEDULER)


def own_defaults(files: ModelFiles) -> dict[str, Any] | None:
    """The model's `velatura.json`; None where there is none."""
    return _of_model(files, DEFAULTS)


def sampling_defaults(files: ModelFiles, family: SamplingDefaults) -> SamplingDefaults:
    """The family's, changed by what the model's velatura.json says. Raises ModelError when that is malformed."""
    found = own_defaults(files)
    if found is None:
        return family
    kinds = {"size": int, "steps": int, "guidance": float, "cfg": float}
    try:
        return replace(family, **{name: kinds[name](said) for name, said in found["sampling"].items()})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"{files.model}/{DEFAULTS}: 'sampling' takes the numbers size, steps, guidance and cfg ({error})"
        ) from None


def check_fit(part: str, gives: str, found: int, wanted: int) -> None:
    """Refuse parts of different models: `found` is the width or count that the part gives. Raises ModelError."""
    if found != wanted:
        raise ModelError(
            f"the {part} gives {gives} {found} and the denoiser wants {wanted}: they belong to different models. "
            "Check the paths in [model]."
        )


def read_json(path: Path) -> dict[str, Any]:
    """A config file. Raises ModelError when it is missing or no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"no config file {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read the config {path}: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"the config {path} is no JSON object")
    return content


def _of_model(files: ModelFiles, name: str) -> dict[str, Any] | None:
    if files.model is None:
        return None
    path = locate(files.model, files.base, patterns=("*.json",)) / name
    return read_json(path) if path.is_file() else None
