"""What changed since a run's state was saved: refused, unless the user insists on it key by key."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from velatura.checkpoints.writing import write_bytes
from velatura.errors import RecipeError
from velatura.plural import agreeing, counted
from velatura.recipe.errors import nearest
from velatura.recipe.plain_toml import toml_value
from velatura.training.dataset import Dataset, entry_identity
from velatura.training.states.identity import SETTINGS, Identity, is_free

SHOWN = 8  # keys in a message
MAY_CHANGE = (  # `identity.FREE` in words
    "May change: [previews], [output], [validation] (not its share), where things lie; of [training] steps (where no "
    "tag_warmup_steps is a share of them), device, compile, checkpoint_blocks, save_every, resume, live, "
    "skip_nonfinite and retry_on_oom; of [ema] device, saved and previewed; of [memory] budget, planned, cache_folder, "
    "micro_batch, offload_activations, split_attention, streamed and text_encoders; of [optimizer] fused_backward and "
    "offload."
)
SHAPING = (  # what is trained: the values in a state fit nothing else
    "adapter",
    "full",
    "adapter.kind",
    "adapter.rank",
    "adapter.targets",
    "adapter.share_down",
    "full.parts",
    "full.only",
)
SHARED = ("training.batch_size", "training.batch_tokens")  # an identity has those of all processes
INIT_FROM = ("adapter.init_from", "full.init_from")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that differs. `key`: of the recipe, or "data" or "model"."""

    key: str
    text: str  # "optimizer.learning_rate was 0.0001, is 0.5"
    old: Any  # values of the recipe, else fingerprints
    new: Any

    @property
    def of(self) -> str:
        """Which of the three it belongs to."""
        return self.key if self.key in ("data", "model") else "recipe"


def require_same(
    saved: Identity, now: Identity, dataset: Dataset, listed: Path, forced: Sequence[str] = ()
) -> list[Change]:
    """The changes that `forced` allows, by their keys or sections; all others are refused.

    `listed`: where `write_items` listed the saved data. Raises RecipeError that says what differs, and how, and for a
    forced key that did not change, or that no state fits.
    """
    changes = [*_recipe_changes(saved, now), *_model_changes(saved.model, now.model)]
    if saved.data != now.data:
        text = _data_difference(_items(dataset), listed)
        changes.append(Change(key="data", text=text, old=saved.data, new=now.data))
    for key in forced:
        if not any(_covers(key, change) for change in changes):
            raise RecipeError(_nothing_to_force(key, changes))
    refused = [
        change
        for change in changes
        if change.key in SHAPING or not any(_covers(key, change) for key in forced)
    ]
    if refused:
        raise RecipeError(_refusal(refused))
    return changes


def write_items(dataset: Dataset, path: Path) -> None:
    """List the images that are trained on, so that a later change can be told image by image. Raises StorageError."""
    if path.exists():
        return
    data = (json.dumps(_items(dataset), indent=0, ensure_ascii=False) + "\n").encode(errors="replace")
    write_bytes(path, data)


def _covers(key: str, change: Change) -> bool:
    """Whether a forced key, or section, stands for a change."""
    return change.key == key or change.key.startswith(f"{key}.")


def _nothing_to_force(key: str, changes: Sequence[Change]) -> str:
    keys = list(dict.fromkeys(change.key for change in changes))
    if not keys:
        return f"--force-change {key}: nothing that counts differs from the saved state; leave the option out"
    close = nearest(key, keys)
    hint = f"Did you mean {close}? " if close else ""
    return f"--force-change {key}: that did not change. {hint}What differs from the saved state: {', '.join(keys)}"


def _refusal(refused: Sequence[Change]) -> str:
    parts = [part for part in ("recipe", "data", "model") if any(change.of == part for change in refused)]
    lines = []
    for part in parts:
        here = [change for change in refused if change.of == part]
        lines += [f"  {part}: {change.text}" for change in here[:SHOWN]]
        if len(here) > SHOWN:
            lines.append(f"  {part}: and {counted(len(here) - SHOWN, 'more key')}")
    first = (
        f"the {' and the '.join(parts)} {agreeing(len(parts), 'differs', 'differ')} from what this run was started "
        "with, so going on would not be the same run:"
    )
    undo = "Undo what differs (the run's recipe.toml holds its recipe), or start a run with another name."
    return "\n".join([first, *lines, MAY_CHANGE, undo, _insisting(refused)])


def _insisting(refused: Sequence[Change]) -> str:
    """How to go on all the same, where that is possible."""
    keys = list(dict.fromkeys(change.key for change in refused))
    if fixed := [key for key in keys if key in SHAPING]:
        return f"{', '.join(fixed)} cannot be insisted on: what the state holds is not what would be trained."
    options = " ".join(f"--force-change {key}" for key in keys[:SHOWN])
    return f"Or insist on it, and it is another run from here on: {options}"


def _recipe_changes(saved: Identity, now: Identity) -> Iterator[Change]:
    """A key that the saved state does not know came with a later version: at its default it changes nothing.

    Nor does one that counted when the state was saved, and does not any more.
    """
    keys = sorted(now.recipe.keys() - saved.recipe.keys() - now.usual) + sorted(
        key for key, value in saved.recipe.items() if key not in now.recipe or now.recipe[key] != value
    )
    sections = _set_or_unset(saved, now)
    counting = [key for key in keys if not is_free(key) and key.partition(".")[0] not in sections]
    for key in (*counting, *sorted(sections)):
        text = f"{key} was {_shown(saved, key)}, is {_shown(now, key)}"
        if key in SHARED:
            text += " (of all processes together)"
        if key in INIT_FROM and saved.recipe.get(key) and now.recipe.get(key):
            text = f"{key} is another file, or one with other values"
        yield Change(key=key, text=text, old=saved.recipe.get(key), new=now.recipe.get(key))


def _set_or_unset(saved: Identity, now: Identity) -> set[str]:
    """Whole sections that one of the two has and the other has not, such as `ema`: they are one change each."""
    heads = {key.partition(".")[0] for key in saved.recipe.keys() ^ now.recipe.keys() if "." in key}
    return {head for head in heads if (head in saved.recipe) != (head in now.recipe)}


def _shown(identity: Identity, key: str) -> str:
    value = identity.recipe.get(key)
    if value is None:  # of a section that is set, the keys are there
        return "set" if any(name.startswith(f"{key}.") for name in identity.recipe) else "not set"
    return toml_value(value)


def _model_changes(saved: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Change]:
    for part in sorted(part for part in saved.keys() | now.keys() if saved.get(part) != now.get(part)):
        other = f"other weights of the {part.replace('_', ' ')}"
        text = (
            "another config of the scheduler, or other options of the family" if part == SETTINGS else other
        )
        yield Change(key="model", text=text, old=saved.get(part), new=now.get(part))


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
        where = f"{listed.parent.name}/{listed.name}"
        return f"images, captions or what is done with them ({where}, which would tell which, cannot be read)"
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
