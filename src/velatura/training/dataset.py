"""The data of a run: scanned, split into training and validation, laid out in buckets, put in order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from velatura.data.cache_place import default_cache_folder
from velatura.data.items import Scan
from velatura.data.order import BatchPlan, OrderedPlan
from velatura.data.plan import Entry, lay_out
from velatura.data.sources import scan
from velatura.data.validation import split, still
from velatura.events import Events
from velatura.recipe.data.folder import FolderData
from velatura.recipe.recipe import Recipe
from velatura.wording import counted


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What there is to train and to validate on."""

    scan: Scan
    entries: tuple[Entry, ...]
    held_out: tuple[Entry, ...]
    plan: BatchPlan

    @property
    def validation(self) -> OrderedPlan | None:
        """The validation batches, all of them in order."""
        return OrderedPlan(self.held_out, batch_size=self.plan.batch_size) if self.held_out else None

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """All (width, height) that occur."""
        return tuple(sorted({entry.bucket for entry in (*self.entries, *self.held_out)}))

    def fingerprint(self) -> str:
        """Identity of what is trained on: contents, captions, sizes, order of entries."""
        digest = hashlib.blake2b(digest_size=16)
        for entry in self.entries:
            item = entry.item
            digest.update(
                f"{item.content}/{item.caption}/{entry.bucket}/{item.weight}/{item.flip}\n".encode()
            )
        return digest.hexdigest()

    def report(self) -> str:
        """One line for people."""
        facts = self.plan.report()
        sizes = ", ".join(f"{w}x{h}: {count}" for (w, h), count in list(facts.buckets.items())[:8])
        more = f" and {counted(len(facts.buckets) - 8, 'more size')}" if len(facts.buckets) > 8 else ""
        return (
            f"{counted(len({entry.item.path for entry in self.entries}), 'image')}, "
            f"{counted(len(self.entries), 'use')} per epoch ({sizes}{more}), {counted(facts.steps, 'step')} per epoch"
        )


def cache_folder(recipe: Recipe) -> Path:
    """Where caches are: as the recipe says, else the user's cache folder."""
    return Path(recipe.memory.cache_folder or default_cache_folder())


def prepare_dataset(recipe: Recipe, base: Path, size_step: int, events: Events) -> Dataset:
    """Read all sources. Raises DataError when there is nothing, or too little that is sound, to train on."""
    found = scan(recipe.data, base, events, memory=cache_folder(recipe))
    training, held_out = split(found.items, recipe.validation.share, recipe.seed)
    entries = lay_out(training, recipe.data, size_step=size_step, events=events).entries
    apart: tuple[Entry, ...] = ()
    if held_out:
        apart = lay_out(held_out, recipe.data, size_step=size_step, events=events).entries
    if recipe.validation.folder is not None:
        apart += _from_folder(recipe, base, size_step, events)
    plan = BatchPlan(
        entries,
        batch_size=recipe.training.batch_size,
        accumulate=recipe.training.accumulate,
        seed=recipe.seed,
    )
    return Dataset(scan=found, entries=entries, held_out=apart, plan=plan)


def _from_folder(recipe: Recipe, base: Path, size_step: int, events: Events) -> tuple[Entry, ...]:
    """Validation images of their own, treated as the first source says."""
    like = recipe.data[0].model_copy(update={"folder": recipe.validation.folder, "repeats": 1, "flip": 0.0})
    sections: list[FolderData] = [like]
    found = scan(sections, base, events)
    return lay_out(still(found.items), sections, size_step=size_step, events=events).entries
