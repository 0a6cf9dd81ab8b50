"""What makes a run the run it is: keys of the recipe, data and weights, kept in its states and compared on resume."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from velatura.checkpoints.fingerprint import fingerprint
from velatura.checkpoints.writing import write_bytes
from velatura.errors import RecipeError
from velatura.plural import agreeing, counted
from velatura.recipe.dump import toml_value
from velatura.training.dataset import Dataset, entry_identity
from velatura.training.setup import Setup

PLACES = ("model", "denoiser", "autoencoder", "text_encoders", "tokenizers")
FREE: Any = {  # does not change what is learned, or counts by what is in it: files may move
    **dict.fromkeys(("name", "data", "previews", "output", "validation"), True),
    "training": {"steps", "device", "save_every"},
    "memory": {"cache_folder"},
    "model": set(PLACES),
}
SETTINGS = "settings"
SHOWN = 8  # keys in a message


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a run learns from. Of the data counts what it came to, not the `[[data]]` tables."""

    recipe: Mapping[str, Any]  # "optimizer.learning_rate": 0.0001
    data: str
    model: Mapping[str, str]  # part -> fingerprint of its weights; "settings" -> `ModelInfo.settings`
    usual: frozenset[str] = field(default=frozenset(), compare=False)  # keys at their defaults; not saved

    def record(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "usual"}


def identity_of(setup: Setup) -> Identity:
    """The identity of the run that is about to begin. Reads the file of `adapter.init_from`."""
    recipe = setup.recipe
    keys = dict(_flat(recipe.model_dump(mode="json", exclude=FREE)))
    said = dict(_flat(recipe.model_dump(mode="json", exclude=FREE, exclude_defaults=True)))
    keys["training.precision"] = str(setup.dtype).removeprefix("torch.")  # "auto" chooses by the machine
    if recipe.adapter is not None and recipe.adapter.init_from is not None:
        keys["adapter.init_from"] = fingerprint(recipe.adapter.init_from)
    return Identity(
        recipe=keys,
        data=setup.dataset.fingerprint(),
        model={**setup.info.fingerprints, SETTINGS: setup.info.settings},
        usual=frozenset(keys.keys() - said.keys()),
    )


def require_same(saved: Identity, now: Identity, dataset: Dataset, listed: Path) -> None:
    """Refuse to go on with what would have trained otherwise. `listed`: where `write_items` listed the data.

    Raises RecipeError that says what differs, and how.
    """
    found = {
        "recipe": _recipe_differences(saved, now),
        "data": [] if saved.data == now.data else [_data_difference(_items(dataset), listed)],
        "model": _model_differences(saved.model, now.model),
    }
    differing = [name for name, lines in found.items() if lines]
    if not differing:
        return
    lines = "\n".join(f"  {name}: {line}" for name in differing for line in found[name])
    raise RecipeError(
        f"the {' and the '.join(differing)} {agreeing(len(differing), 'differs', 'differ')} from what this run was "
        f"started with, so going on would not be the same run:\n{lines}\n"
        "Only previews, output, validation (not its share), and in training the steps (where no tag_warmup_steps is a "
        "share of them), the device and save_every may change. Undo what differs (the run's recipe.toml holds its "
        "recipe), or start a run with another name."
    )


def write_items(dataset: Dataset, path: Path) -> None:
    """List the images that are trained on, so that a later change can be told image by image. Raises StorageError."""
    data = (json.dumps(_items(dataset), indent=0, ensure_ascii=False) + "\n").encode(errors="replace")
    write_bytes(path, data)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _recipe_differences(saved: Identity, now: Identity) -> list[str]:
    """A key that the saved state does not know came with a later version: at its default it changes nothing."""
    keys = sorted(now.recipe.keys() - saved.recipe.keys() - now.usual) + sorted(
        key for key, value in saved.recipe.items() if key not in now.recipe or now.recipe[key] != value
    )
    lines = [
        "adapter.init_from is another file, or one with other values"
        if key == "adapter.init_from"
        else f"{key} was {_shown(saved.recipe, key)}, is {_shown(now.recipe, key)}"
        for key in keys[:SHOWN]
    ]
    return lines + ([f"and {counted(len(keys) - SHOWN, 'more key')}"] if len(keys) > SHOWN else [])


def _shown(recipe: Mapping[str, Any], key: str) -> str:
    value = recipe.get(key)
    if value is None:  # of a section that is set, the keys are there
        return "set" if any(name.startswith(f"{key}.") for name in recipe) else "not set"
    return toml_value(value)


def _model_differences(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    changed = sorted(part for part in saved.keys() | now.keys() if saved.get(part) != now.get(part))
    return [
        "another config of the scheduler, or other options of the family"
        if part == SETTINGS
        else f"other weights of the {part.replace('_', ' ')}"
        for part in changed
    ]


def _items(dataset: Dataset) -> dict[str, str]:
    """Name -> digest of all that is done with the item in an epoch."""
    uses: dict[str, list[str]] = {}
    for entry in dataset.entries:
        uses.setdefault(entry.item.name, []).append(entry_identity(entry))
    return {
        name: hashlib.blake2b("".join(texts).encode(), digest_size=8).hexdigest()
        for name, texts in uses.items()
    }


def _data_difference(now: Mapping[str, str], listed: Path) -> str:
    try:
        before = {str(name): str(digest) for name, digest in json.loads(listed.read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return f"images, captions or what is done with them ({listed.name}, which would tell which, cannot be read)"
    changed = [name for name, digest in now.items() if before.get(name, digest) != digest]
    gone, new = sorted(before.keys() - now.keys()), sorted(now.keys() - before.keys())
    moved = (Counter(before[name] for name in gone) & Counter(now[name] for name in new)).total()
    counts = {"added": len(new) - moved, "removed": len(gone) - moved, "changed": len(changed)}
    told = [f"{counted(count, 'image')} {what}" for what, count in counts.items() if count]
    if not told:
        return "the same images in another order, or in other batches"
    what = " in file, caption, or what [[data]] does with it" if changed else ""
    example = f" (for example {[*changed, *new, *gone][0]})"
    return ", ".join(told) + what + example
