"""The data of a run: scanned, split into training and validation, laid out in buckets, put in order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from velatura.checkpoints.cache_folder import default_cache_folder
from velatura.data.items import Item, Scan, Treatment
from velatura.data.order import BatchPlan, OrderedPlan
from velatura.data.plan import Entry, lay_out
from velatura.data.rated import Fading
from velatura.data.scan import scan
from velatura.data.validation import split, still
from velatura.data.warmup import with_warmup
from velatura.data.wording import Wording
from velatura.events import Events
from velatura.plural import counted
from velatura.recipe.data.items import SourceData
from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.recipe import Recipe


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
        """Identity of what is trained on: contents, captions, treatment, sizes, order of entries."""
        digest = hashlib.blake2b(digest_size=16)
        for entry in self.entries:
            digest.update(entry_identity(entry).encode())
        return digest.hexdigest()

    def report(self) -> str:
        """One line for people."""
        facts = self.plan.report()
        sizes = ", ".join(f"{w}x{h}: {count}" for (w, h), count in list(facts.buckets.items())[:8])
        more = f" and {counted(len(facts.buckets) - 8, 'more size')}" if len(facts.buckets) > 8 else ""
        filling = counted(facts.fillers, "more use fills", "more uses fill")
        fillers = f", in which {filling} up batches" if facts.fillers else ""
        return (
            f"{counted(len({entry.item.place.key for entry in self.entries}), 'image')}, "
            f"{counted(len(self.entries), 'use')} per epoch ({sizes}{more}), "
            f"{counted(facts.steps, 'step')} per epoch{fillers}"
        )


def entry_identity(entry: Entry) -> str:
    """A use of an image as a text: its content, caption, companions, size and treatment, not where it lies."""
    item, caption = entry.item, entry.item.caption
    companions = sorted(f"{role}={one.content}" for role, one in item.companions.items())
    return (
        f"{item.content}/{caption.text}/{caption.tags}/{caption.max_length}"
        f"/{entry.bucket}/{entry.share}/{entry.batch_size}/{_told(item.treatment)}/{companions}\n"
    )


@cache
def _told(treatment: Treatment | Wording) -> str:
    """What differs from the defaults, so that data keeps its identity when later versions know more keys."""
    default = type(treatment)()
    told = []
    for field in fields(treatment):
        value, usual = getattr(treatment, field.name), getattr(default, field.name)
        if value != usual:
            told.append(f"{field.name}={_told(value) if isinstance(value, Wording) else repr(value)}")
    return ", ".join(told)


def cache_folder(recipe: Recipe) -> Path:
    """Where caches are: as the recipe says, else the user's cache folder."""
    return Path(recipe.memory.cache_folder or default_cache_folder())


def prepare_dataset(recipe: Recipe, base: Path, size_step: int, events: Events) -> Dataset:
    """Read all sources. Raises DataError when there is nothing, or too little that is sound, to train on."""
    found = scan(recipe.data, base, events, memory=cache_folder(recipe))
    items = with_warmup(found.items, recipe.training.steps)
    training, held_out = split(items, found.sections, recipe.validation, recipe.seed)
    tokens = recipe.training.batch_tokens

    def entries_of(items: Sequence[Item], sections: Sequence[SourceData]) -> tuple[Entry, ...]:
        return lay_out(items, sections, size_step=size_step, events=events, batch_tokens=tokens).entries

    entries = entries_of(training, found.sections)
    apart = entries_of(held_out, found.sections) if held_out else ()
    if recipe.validation.folder is not None:
        own = _validation_folder(recipe, base, events)
        apart += entries_of(still(own.items), own.sections)
    plan = BatchPlan(
        entries,
        batch_size=recipe.training.batch_size,
        accumulate=recipe.training.accumulate,
        seed=recipe.seed,
        incomplete=recipe.training.incomplete,
        fading=Fading(keep=recipe.rated.keep, epochs=recipe.rated.epochs) if recipe.rated else None,
    )
    return Dataset(scan=found, entries=entries, held_out=apart, plan=plan)


def _validation_folder(recipe: Recipe, base: Path, events: Events) -> Scan:
    """Validation images of their own, treated as the first source says."""
    shared = recipe.data[0].model_dump(include=set(SourceData.model_fields), exclude={"kind"})
    like = FolderData(**{**shared, "folder": recipe.validation.folder, "repeats": 1, "flip": 0.0})
    return scan([like], base, events)
