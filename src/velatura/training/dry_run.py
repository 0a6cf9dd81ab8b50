"""What a run would do, told before a weight is read. What would stop its set-up stops this too."""

from __future__ import annotations

from velatura.data.caches.cache_place import check_room, readable
from velatura.data.views import views_of
from velatura.events import Events
from velatura.plural import counted
from velatura.training.caching import latents_cache, remark_texts, text_cache, texts_to_encode
from velatura.training.previews import plan_previews
from velatura.training.rehearsal import Rehearsed, rehearse
from velatura.training.setup import Setup


def plan_lines(setup: Setup, events: Events) -> list[str]:
    """Lines for the user; remarks go to `events`.

    Raises RecipeError, ModelError, CheckpointError or StorageError for what would stop the run before its first step.
    """
    recipe, training = setup.recipe, setup.recipe.training
    previews = plan_previews(recipe.previews, setup.info, size=setup.preview_size)
    rehearsed = rehearse(setup)
    remark_texts(setup, previews, events)
    report = setup.dataset.plan.report()
    each = "1 image"
    if training.batch_size * training.accumulate > 1:
        each = f"{training.batch_size} x {training.accumulate} images"
    if training.batch_tokens is not None:
        each = f"{counted(training.batch_tokens, 'image token')} x {training.accumulate}"
    if recipe.memory.micro_batch is not None:
        each += f", at most {counted(recipe.memory.micro_batch, 'image')} in a pass"
    epochs = training.steps / report.steps
    seen = counted(round(epochs * report.images), "image")
    lines = [
        f"model: {setup.info.family} {setup.info.variant}, {_dtype(setup)} on {setup.device}",
        f"steps: {training.steps} of {each}, {epochs:.2f} epochs, about {seen} seen",
        _trained(rehearsed),
    ]
    if setup.caches_latents:
        lines.append(_latents(setup))
    if setup.caches_text:
        lines.append(_captions(setup))
    lines += setup.encoded_at_every_step()
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
    cache = latents_cache(setup, Events(), memory_limit=0)
    views = views_of(setup.dataset.everything)
    missing = cache.missing(views)
    size = cache.size(missing)
    check_room(cache.store.folder, size, f"the latents of {counted(len(missing), 'image')}")
    return (
        f"latents: {len(missing)} of {counted(len(views), 'image')} to be encoded, {readable(size)} on disk"
    )


def _captions(setup: Setup) -> str:
    texts = texts_to_encode(setup)
    missing = text_cache(setup, Events(), memory_limit=0).missing(texts)
    return f"captions: {len(missing)} of {counted(len(texts), 'text')} to be encoded"


def _dtype(setup: Setup) -> str:
    return str(setup.dtype).removeprefix("torch.")
