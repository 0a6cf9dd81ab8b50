"""What a recipe may leave out because the rest of it tells: the family, the kinds of objective and data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from velatura.recipe.data.items import SourceData
from velatura.recipe.families.files import ModelSection
from velatura.recipe.families.flux import FluxModel
from velatura.recipe.families.sd1 import Sd1Model
from velatura.recipe.path_keys import sound_path
from velatura.recipe.problems import Problem
from velatura.recipe.schema import listing

POCKET = Path(__file__).parents[1] / "pocket" / "models"  # models inside the package
FAMILIES: dict[str, type[ModelSection]] = {"flux": FluxModel, "sd1": Sd1Model}


def fill_in(table: dict[str, Any], base: Path) -> list[Problem]:
    """Add the family and the objective's kind to a raw recipe where they are not given; what cannot be told."""
    problems = []
    model = table.get("model")
    if isinstance(model, dict) and "family" not in model:
        family = family_of(str(model.get("model", "")), base)
        if family is None:
            problems.append(_unknown_family(model))
        model["family"] = family or next(iter(FAMILIES))
    objective = table.setdefault("objective", {})
    if isinstance(objective, dict):
        objective.setdefault("kind", _objective(table))
    return problems


def with_kind(source: Any, kinds: Sequence[type[SourceData]]) -> Any:
    """A raw `[[data]]` table with its kind, where it names none: what its keys tell, else the first of `kinds`."""
    if not isinstance(source, dict) or "kind" in source:
        return source
    told = next((kind for kind in kinds if kind.fits(source)), kinds[0])
    return {"kind": told.model_fields["kind"].default, **source}


def pocket_models() -> list[str]:
    """The models inside the package, as recipes name them."""
    return sorted(f"pocket/{entry.name}" for entry in POCKET.iterdir() if entry.is_dir())


def family_of(model: str, base: Path) -> str | None:
    """The family of `pocket/<family>`, or of a local diffusers folder by the class its `model_index.json` names."""
    if model.startswith("pocket/"):
        name = model.removeprefix("pocket/")
        return name if name in FAMILIES else None
    pipeline = _pipeline_class(model, base) if model else None
    return next((name for name, section in FAMILIES.items() if pipeline in section.pipelines), None)


def _pipeline_class(model: str, base: Path) -> str | None:
    try:
        folder = base / Path(sound_path(model)).expanduser()
        return str(json.loads((folder / "model_index.json").read_text("utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _unknown_family(model: dict[str, Any]) -> Problem:
    name = str(model.get("model", ""))
    if name.startswith("pocket/"):
        return Problem(
            path=("model", "model"), what=f'received "{name}"; allowed: {listing(pocket_models())}'
        )
    given = f'model = "{model["model"]}"' if "model" in model else "the single parts"
    return Problem(
        path=("model", "family"),
        what=f"the key family is missing, and {given} does not tell it; allowed: {listing(FAMILIES)}",
        hint='it can be left out for "pocket/…" and for a diffusers folder on this machine',
    )


def _objective(table: dict[str, Any]) -> str:
    """The family's own objective; an autoencoder that is trained by itself learns to reconstruct."""
    full, model = table.get("full"), table.get("model")
    if isinstance(full, dict) and full.get("parts") == ["autoencoder"]:
        return "autoencoder"
    family = model.get("family") if isinstance(model, dict) else None
    section = FAMILIES.get(family) if isinstance(family, str) else None
    return (section or next(iter(FAMILIES.values()))).objectives[0]
