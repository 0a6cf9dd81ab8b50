"""What a run would do, told before a weight is read. What would stop its set-up stops this too."""

from __future__ import annotations

from collections.abc import Sequence

from velatura.data.cache import CachedLatents, views_of
from velatura.data.cache_place import check_room, readable
from velatura.events import Events
from velatura.sampling.request import Request
from velatura.training.caching import remark_texts, text_cache, wanted_texts
from velatura.training.dataset import cache_folder
from velatura.training.previews import plan_previews
from velatura.training.rehearsal import Rehearsed, rehearse
from velatura.training.setup import Setup
from velatura.wording import counted


def plan_lines(setup: Setup, events: Events) -> list[str]:
    """Lines for the user; remarks go to `events`.

    Raises RecipeError, ModelError, CheckpointError or StorageError for what would stop the run before its first step.
    """
    recipe, training = setup.recipe, setup.recipe.training
    previews = plan_previews(recipe.previews, setup.info, size=setup.preview_size)
    rehearsed = rehearse(setup)
    remark_texts(setup, previews, events)
    report = setup.dataset.plan.report()
    at_once = training.batch_size * training.accumulate
    of = "1 image" if at_once == 1 else f"{training.batch_size} x {training.accumulate} images"
    lines = [
        f"model: {setup.info.family} {setup.info.variant}, {_dtype(setup)} on {setup.device}",
        (
            f"steps: {training.steps} of {of}, {training.steps / report.steps:.2f} epochs, "
            f"at most {counted(training.steps * at_once, 'image')} seen"
        ),
        _trained(rehearsed),
    ]
    if setup.caches_latents:
        lines.append(_latents(setup))
    if setup.caches_text:
        lines.append(_captions(setup, previews))
    sizes = ", ".join(f"{preview.width}x{preview.height}" for preview in previews)
    lines.append(f"previews: {counted(len(previews), 'prompt')}" + (f", {sizes}" if sizes else ""))
    lines.append(f"results: {setup.folder.root}")
    return lines


def _trained(rehearsed: Rehearsed) -> str:
    trainables = rehearsed.trainables
    if trainables.adapter is None:
        return f"trained: {trainables.report}"
    return (
        f"trained: {trainables.report}, {counted(trainables.count, 'value')}; "
        f"frozen: {counted(rehearsed.frozen, 'weight')}, {readable(rehearsed.frozen_bytes)}"
    )


def _latents(setup: Setup) -> str:
    folder = cache_folder(setup.recipe)
    cache = CachedLatents(folder, setup.info, Events(), computed=setup.dtype)
    views = views_of((*setup.dataset.entries, *setup.dataset.held_out))
    missing = cache.missing(views)
    size = cache.size(missing)
    check_room(folder, size, f"the latents of {counted(len(missing), 'image')}")
    return (
        f"latents: {len(missing)} of {counted(len(views), 'image')} to be encoded, {readable(size)} on disk"
    )


def _captions(setup: Setup, previews: Sequence[Request]) -> str:
    texts = wanted_texts(setup, previews)
    missing = text_cache(setup, cache_folder(setup.recipe), Events()).missing(texts)
    return f"captions: {len(missing)} of {counted(len(texts), 'text')} to be encoded"


def _dtype(setup: Setup) -> str:
    return str(setup.dtype).removeprefix("torch.")
