"""The data of a run: scanned, split into training and validation, laid out in buckets, put in order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import chain
from pathlib import Path

from velatura.checkpoints.cache_folder import default_cache_folder
from velatura.data.batching.order import BatchPlan, OrderedPlan
from velatura.data.batching.plan import Entry, lay_out
from velatura.data.batching.rated import Fading
from velatura.data.items import Item, Scan, Treatment
from velatura.data.scanning.collection import no_collection
from velatura.data.scanning.scan import scan
from velatura.data.text.warmup import with_warmup
from velatura.data.text.wording import Wording
from velatura.data.validation import split, still, watched
from velatura.errors import DataError
from velatura.events import Events
from velatura.plural import counted
from velatura.recipe.data.companions import CompanionFolders
from velatura.recipe.data.items import SourceData
from velatura.recipe.data.sources.everydream2 import EveryDream2Data
from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.recipe import Recipe
from velatura.recipe.training.validation import HELD_OUT, STABILIZED


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What there is to train and to validate on."""

    scan: Scan
    entries: tuple[Entry, ...]
    validations: Mapping[str, tuple[Entry, ...]]  # what the loss is measured on, by the name of that loss
    plan: BatchPlan

    @property
    def held_out(self) -> tuple[Entry, ...]:
        """What is for validation alone."""
        apart = (entries for name, entries in self.validations.items() if name != STABILIZED)
        return tuple(chain.from_iterable(apart))

    @property
    def images(self) -> int:
        """How many different files are trained on."""
        return len({entry.item.place.key for entry in self.entries})

    @property
    def everything(self) -> tuple[Entry, ...]:
        """The entries of training and of all validation."""
        return tuple(chain(self.entries, *self.validations.values()))

    def validation_plans(self) -> dict[str, OrderedPlan]:
        """The batches of each validation, all of them in order."""
        size = self.plan.batch_size
        return {name: OrderedPlan(entries, batch_size=size) for name, entries in self.validations.items()}

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """All (width, height) that occur."""
        return tuple(sorted({entry.bucket for entry in self.everything}))

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
            f"{counted(self.images, 'image')}, "
            f"{counted(len(self.entries), 'use')} per epoch ({sizes}{more}), "
            f"{counted(facts.steps, 'step')} per epoch{fillers}"
        )


def _for_all(entry: Entry, processes: int) -> Entry:
    """An entry whose own batch size, where it has one, is that of all processes."""
    if entry.batch_size is None or processes == 1:
        return entry
    return replace(entry, batch_size=entry.batch_size * processes)


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


@no_collection()
def prepare_dataset(
    recipe: Recipe, base: Path, size_step: int, events: Events, *, processes: int = 1
) -> Dataset:
    """Read all sources. Each batch is for all `processes` together: it has so many times the recipe's batch size.

    Raises DataError when there is nothing, or too little that is sound, to train on.
    """
    found = scan(recipe.data, base, events, memory=cache_folder(recipe))
    items = with_warmup(found.items, recipe.training.steps)
    training, held_out = split(items, found.sections, recipe.validation, recipe.seed)
    tokens = recipe.training.batch_tokens

    def entries_of(items: Sequence[Item], sections: Sequence[SourceData]) -> tuple[Entry, ...]:
        layout = lay_out(items, sections, size_step=size_step, events=events, batch_tokens=tokens)
        return tuple(_for_all(entry, processes) for entry in layout.entries)

    entries = entries_of(training, found.sections)
    validations = {HELD_OUT: entries_of(held_out, found.sections)} if held_out else {}
    for name, folder in _validation_folders(recipe):
        own = scan([_like_the_first(recipe, folder)], base, events, memory=cache_folder(recipe))
        try:
            more = entries_of(still(own.items), own.sections)
        except DataError as error:
            raise DataError(f"validation images in '{folder}': {error}") from error
        validations[name] = (*validations.get(name, ()), *more)
    if share := recipe.validation.training_share:
        seed = recipe.seed if recipe.validation.seed is None else recipe.validation.seed
        validations[STABILIZED] = watched(entries, share, seed)
    plan = BatchPlan(
        entries,
        batch_size=recipe.training.batch_size * processes,
        accumulate=recipe.training.accumulate,
        seed=recipe.seed,
        incomplete=recipe.training.incomplete,
        fading=Fading(keep=recipe.rated.keep, epochs=recipe.rated.epochs) if recipe.rated else None,
    )
    return Dataset(scan=found, entries=entries, validations=validations, plan=plan)


def _validation_folders(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Folders of validation images, with the names of the losses on them."""
    if recipe.validation.folder is not None:
        yield HELD_OUT, recipe.validation.folder
    yield from ((one.name, one.folder) for one in recipe.validation_sets)


def _like_the_first(recipe: Recipe, folder: str) -> SourceData:
    """A folder that is read and treated as the first source is, without the folders of its companions."""
    first = next(one for one in recipe.data if not one.regularisation)
    if isinstance(first, FolderData):
        alone = dict.fromkeys(CompanionFolders.model_fields)
        return first.model_copy(update={**alone, "folder": folder})
    shared = first.model_dump(include=set(SourceData.model_fields), exclude={"kind"})
    if isinstance(first, EveryDream2Data):
        return EveryDream2Data(**{**shared, "root": folder})
    return FolderData(**{**shared, "folder": folder})
