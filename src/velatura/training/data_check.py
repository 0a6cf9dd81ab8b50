"""A recipe's data looked at as its training would read it: nothing of the model is needed but its tokenizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from velatura.checkpoints.writing import write_bytes
from velatura.data.checking.check import Checked, Uses, check_items
from velatura.data.checking.document import document_of
from velatura.data.checking.page import page_of
from velatura.data.checking.pictures import pictures_of, shown_items
from velatura.data.checking.wordings import TokenCount, TokenCounter
from velatura.errors import DataError, ModelError, RecipeError
from velatura.events import Event, Events, Notice
from velatura.families.registry import family_for, files_of
from velatura.interfaces import Family, ModelFiles, ModelInfo, Parts
from velatura.recipe.paths import with_absolute_paths
from velatura.recipe.recipe import Recipe
from velatura.sampling.reading import encoder_names
from velatura.training.dataset import Dataset, prepare_dataset

_USUAL_STEP = 16  # pixels: of the known families, where the model cannot be asked


@dataclass(kw_only=True)
class _Quiet:
    """Passes on what goes on, and keeps what is said."""

    events: Events
    said: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.said.append(event.message)
        else:
            self.events(event)


def check_data(recipe: Recipe, base: Path, events: Events) -> Checked:
    """Everything that can be said about the data before training; never raises for bad data, but tells."""
    memory = with_absolute_paths(recipe, base).memory  # all other paths stay as their author wrote them
    recipe = recipe.model_copy(update={"memory": memory})
    family, files = family_for(recipe.model), files_of(recipe.model, base)
    remarks: list[str] = []
    info = _info(family, files, remarks)
    dataset, refusals = _dataset(recipe, base, info.size_step if info else _USUAL_STEP, events, remarks)
    if dataset is None:
        return Checked(name=recipe.name, refusals=tuple(refusals), warnings=tuple(remarks))
    counter = _counter(family, files, info, remarks)
    report = dataset.plan.report()
    return check_items(
        recipe.name,
        dataset.scan.items,
        dataset.entries,
        dataset.held_out,
        events,
        quarantined=dataset.scan.quarantined,
        refusals=refusals,
        warnings=remarks,
        buckets=report.buckets,
        uses=Uses(
            steps_per_epoch=report.steps,
            images_per_epoch=report.images,
            epochs=recipe.training.steps / report.steps,
            small_batches=report.small_batches,
            of_item=dataset.plan.uses(),
        ),
        counter=counter,
        seed=recipe.seed,
    )


def write_check(checked: Checked, folder: Path, events: Events) -> Sequence[Path]:
    """Write the page and the JSON; their paths. Raises StorageError."""
    pictures = pictures_of(checked, shown_items(checked), events)
    texts = {
        folder / "check.html": page_of(checked, pictures),
        folder / "check.json": json.dumps(document_of(checked), indent=1, ensure_ascii=False) + "\n",
    }
    for path, text in texts.items():
        data = text.encode("utf-8", errors="replace")
        write_bytes(path, data)
    return list(texts)


def _info(family: Family, files: ModelFiles, remarks: list[str]) -> ModelInfo | None:
    try:
        return family.inspect(files)
    except ModelError as error:
        remarks.append(
            f"the model cannot be read, so sizes are taken to be multiples of {_USUAL_STEP}: {error}"
        )
        return None


def _dataset(
    recipe: Recipe, base: Path, size_step: int, events: Events, remarks: list[str]
) -> tuple[Dataset | None, list[str]]:
    """The data, and why training would refuse it; then it is read once more without a limit to what is bad."""
    refusals: list[str] = []
    for allowed in (recipe, _allowing_all(recipe)):
        quiet = _Quiet(events=events)
        try:
            dataset = prepare_dataset(allowed, base, size_step, Events(quiet))
        except (DataError, RecipeError) as error:
            if str(error) not in refusals:
                refusals.append(str(error))
            continue
        left_out = {one.notice for one in dataset.scan.quarantined}  # they have a place of their own
        remarks += [line for line in quiet.said if line not in left_out]
        return dataset, refusals
    return None, refusals


def _allowing_all(recipe: Recipe) -> Recipe:
    return recipe.model_copy(
        update={"data": [section.model_copy(update={"max_bad": 1.0}) for section in recipe.data]}
    )


def _counter(
    family: Family, files: ModelFiles, info: ModelInfo | None, remarks: list[str]
) -> TokenCounter | None:
    """Counts the tokens of a text; None where there are no tokenizers."""
    try:
        if info is None:
            raise ModelError("the model cannot be read")
        parts = Parts(info=info, tokenizers=family.tokenizers(files))
    except ModelError as error:
        remarks.append(f"tokens were not counted: {error}")
        return None
    names = encoder_names(parts)

    def count(text: str) -> tuple[TokenCount, ...]:
        counts = family.token_counts(parts, text)
        return tuple(
            TokenCount(encoder=name, tokens=tokens, read=read)
            for name, (tokens, read) in zip(names, counts, strict=True)
        )

    return count
