"""The recipes of runs as they stand in their folders, whatever version wrote them: in short, and side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from velatura.recipe.plain_toml import read_toml
from velatura.recipe.values import flat

PLACES = (
    ".folder",
    ".train_folder",
    ".file",
    ".root",
    ".repository",
    ".shards",
)  # keys that say where images are
NO_BRACKETS = str.maketrans("", "", '[]"')
LOSS_KEYS = (  # keys begin like this where a difference makes losses hard to compare
    "model.",
    "data[",
    "objective.",
    "validation.folder",
    "validation.seed",
    "validation.share",
    "validation.times",
    "validation.training_share",
    "validation_sets[",
)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key whose value is not the same in all recipes; None where a recipe does not have it."""

    key: str
    values: tuple[str | None, ...]


def read_recipe_table(path: Path) -> dict[str, Any]:
    """The recipe as plain tables; empty where it is missing or damaged."""
    try:
        return read_toml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def texts_by_key(table: Mapping[str, Any]) -> dict[str, str]:
    """`section.key` and the value as text; of several `[[data]]`, `data[0].key`."""
    numbered: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            numbered |= {f"{name}[{number}]": entry for number, entry in enumerate(value)}
        else:
            numbered[name] = value
    return {key: _text(value) for key, value in flat(numbered)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def differences(tables: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """The keys that differ, in the order in which they appear; the names are left out."""
    recipes = [texts_by_key(table) for table in tables]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe if key != "name")
    rows = [Difference(key=key, values=tuple(recipe.get(key) for recipe in recipes)) for key in keys]
    return [row for row in rows if len(set(row.values)) > 1]


def in_short(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a run is about, as (word, text)."""
    values = texts_by_key(table)

    def texts(*keys: str) -> str:
        return " ".join(values[key] for key in keys if key in values)

    folders = [text for key, text in values.items() if key.startswith("data[") and key.endswith(PLACES)]
    adapter = _named(values, "adapter.kind", rank="adapter.rank", alpha="adapter.alpha")
    began = Path(values.get("adapter.init_from", ""))
    if began.suffix:  # a file, which has ranks of its own, and no state
        adapter = f"{values.get('adapter.kind', '')}, layers of {began.name}"
    lines = {
        "model": texts("model.family", "model.model", "model.denoiser"),
        "data": ", ".join(folders),
        "trained": texts("full.parts").translate(NO_BRACKETS) or adapter,
        "objective": texts("objective.kind"),
        "optimizer": _named(
            values, "optimizer.kind", learning_rate="optimizer.learning_rate", schedule="optimizer.schedule"
        ),
        "training": _named(
            values,
            "",
            steps="training.steps",
            batch_size="training.batch_size",
            batch_tokens="training.batch_tokens",
            accumulate="training.accumulate",
            precision="training.precision",
            seed="seed",
        ),
    }
    return [(word, text) for word, text in lines.items() if text]


def _named(values: Mapping[str, str], first: str, **keys: str) -> str:
    named = [f"{word} {values[key]}" for word, key in keys.items() if key in values]
    return ", ".join([*([values[first]] if first in values else []), *named])
