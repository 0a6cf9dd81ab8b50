"""What a recipe asks for, as far as a plan needs it: with the model's shapes and the data's sizes, or likely ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from operator import ge
from pathlib import Path

import torch

from velatura.data.batching.order import BatchPlan
from velatura.data.batching.plan import lay_out, tokens_of
from velatura.data.items import Item, Scan, Treatment
from velatura.data.places import FilePlace
from velatura.data.text.captions import Caption
from velatura.data.text.texts import texts_of
from velatura.data.views import views_of
from velatura.events import Events
from velatura.families.latent_family import LatentFamily
from velatura.families.outline import Outline, outline
from velatura.families.registry import family_for, files_of
from velatura.objectives.registry import objective_for
from velatura.planning.devices import Device
from velatura.planning.phases import Shape
from velatura.planning.steering import times_together
from velatura.recipe.paths import missing_files, with_absolute_paths
from velatura.recipe.recipe import Recipe
from velatura.sampling.painter import request_texts
from velatura.sampling.request import Request
from velatura.training.dataset import Dataset, prepare_dataset
from velatura.training.folder import RunFolder
from velatura.training.health.splitting import passes
from velatura.training.previews import plan_previews
from velatura.training.setup import Setup

LARGE = 16384  # pixels: an image that is smaller than no resolution


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A run that may have neither model nor data yet. `remarks` say what was assumed.

    `shapes`: what a batch may be, with the number of images that an epoch has of it; no plan changes it.
    """

    setup: Setup
    found: Outline
    shapes: Counter[Shape]
    images: int | None  # different ones at their sizes; None: the data is not there
    texts: int | None
    remarks: list[str] = field(default_factory=list)

    def largest_pass(self, text_tokens: int) -> tuple[Shape, int]:
        """What a forward pass has of the batch with the most tokens in each, and the passes of that batch at most.

        Tokens are those of the images, and so many of each one's text. Where batches are split, a pass may have as many
        images as it is allowed: the last batch of an epoch may be of that size.
        """
        step, most = self.setup.info.size_step, self.setup.recipe.memory.micro_batch

        def rank(shape: Shape) -> tuple[int, int, int]:
            image_tokens = tokens_of((shape.width, shape.height), step)
            return shape.count * (image_tokens + text_tokens), image_tokens, shape.width

        passed: dict[Shape, int] = {}
        for shape in self.shapes:
            part = replace(shape, count=min(shape.count, most or shape.count))
            passed[part] = max(passed.get(part, 1), passes(shape.count, most))
        largest = max(passed, key=rank)
        return largest, passed[largest]

    @property
    def accumulates(self) -> bool:
        """Whether a forward pass may begin beside the gradients of another one."""
        recipe = self.setup.recipe
        split = any(passes(shape.count, recipe.memory.micro_batch) > 1 for shape in self.shapes)
        return split or recipe.training.accumulate > 1

    @property
    def largest_image(self) -> Shape:
        """A single image of the size with the most pixels."""
        found = max(self.shapes, key=lambda shape: (shape.width * shape.height, shape.width))
        return replace(found, count=1)

    @property
    def previews(self) -> list[Request]:
        """What is painted while training."""
        return plan_previews(self.setup.recipe.previews, self.setup.info, size=self.setup.preview_size)

    @property
    def largest_previews(self) -> list[Request]:
        """One of each kind of preview that no other takes more than in every respect."""
        kinds = {_extent(request): request for request in self.previews}
        return [
            request
            for kind, request in kinds.items()
            if not any(other != kind and all(map(ge, other, kind)) for other in kinds)
        ]


def _extent(request: Request) -> tuple[int, ...]:
    """What decides over what a preview takes: its size, its texts, its pictures, its times at once."""
    size = request.width or 0, request.height or 0
    return *size, len(request_texts(request)), request.batch, times_together(request)


def workload(recipe: Recipe, base: Path, device: Device, events: Events) -> Workload:
    """Settle a recipe for a device that may be elsewhere. Raises RecipeError, DataError or ModelError."""
    remarks: list[str] = []
    recipe = _without_missing_adapter(with_absolute_paths(recipe, base), remarks)
    family = family_for(recipe.model)
    assert isinstance(family, LatentFamily)
    files = files_of(recipe.model, base)
    found = outline(family, files)
    remarks += _assumed(family, found)
    step = found.info.size_step
    missing = [
        problem for problem in missing_files(recipe, base) if problem.path[0] in ("data", "validation")
    ]
    if missing:
        remarks.append("the data is not there: square images of every resolution are assumed")
        dataset = _likely(recipe, step)
    else:
        dataset = prepare_dataset(recipe, base, step, events)
    setup = Setup(
        recipe=recipe,
        family=family,
        files=files,
        info=found.info,
        objective=objective_for(recipe),
        dataset=dataset,
        folder=RunFolder(Path(recipe.output.folder) / recipe.name, recipe.name),
        device=torch.device("cpu"),
        dtype=device.dtype(recipe.training.precision),
    )
    if missing:
        shapes = _shapes(setup)
        return Workload(setup=setup, found=found, shapes=shapes, images=None, texts=None, remarks=remarks)
    return _counted(setup, found, remarks)


def settled(setup: Setup) -> Workload:
    """That of a run that is about to begin. Raises ModelError."""
    assert isinstance(setup.family, LatentFamily)
    found, cpu = outline(setup.family, setup.files), torch.device("cpu")
    return _counted(replace(setup, device=cpu), found, _assumed(setup.family, found))


def _counted(setup: Setup, found: Outline, remarks: list[str]) -> Workload:
    """A workload whose data is there."""
    entries = setup.dataset.entries
    texts = texts_of(entries, setup.caption_dropout)
    return Workload(
        setup=setup,
        found=found,
        shapes=_shapes(setup),
        images=len(views_of(entries)),
        texts=len(texts),
        remarks=remarks,
    )


def _shapes(setup: Setup) -> Counter[Shape]:
    """See `Workload.shapes`."""
    found: Counter[Shape] = Counter()
    for entry in setup.dataset.entries:
        width, height = entry.bucket
        count = entry.batch_size or setup.recipe.training.batch_size
        found[Shape(width=width, height=height, count=count)] += 1
    return found


def _assumed(family: LatentFamily, found: Outline) -> list[str]:
    if not found.assumed:
        return []
    names = ", ".join(part.replace("_", " ") for part in found.assumed)
    return [
        f"not there, so that the shapes of the published {family.name} {found.info.variant} are taken: {names}"
    ]


def _without_missing_adapter(recipe: Recipe, remarks: list[str]) -> Recipe:
    """A LoRA that is to be continued and is not there yet counts as a new one of the recipe's rank."""
    adapter = recipe.adapter
    if adapter is None or adapter.init_from is None or Path(adapter.init_from).exists():
        return recipe
    remarks.append("adapter.init_from is not there: a new adapter of the recipe's rank is assumed")
    return recipe.model_copy(update={"adapter": adapter.model_copy(update={"init_from": None})})


def _likely(recipe: Recipe, size_step: int) -> Dataset:
    """One square image for each source, larger than any resolution."""
    items = [
        Item(
            name="an image",
            place=FilePlace(""),
            caption=Caption(text="a caption"),
            width=LARGE,
            height=LARGE,
            content=str(number),
            source=number,
            treatment=Treatment.of(section),
        )
        for number, section in enumerate(recipe.data)
    ]
    tokens = recipe.training.batch_tokens
    laid = lay_out(items, recipe.data, size_step=size_step, events=Events(), batch_tokens=tokens)
    plan = BatchPlan(
        laid.entries,
        batch_size=recipe.training.batch_size,
        accumulate=recipe.training.accumulate,
        seed=recipe.seed,
    )
    scan = Scan(sections=tuple(recipe.data), items=tuple(items))
    return Dataset(scan=scan, entries=laid.entries, validations={}, plan=plan)
