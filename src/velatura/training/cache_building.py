"""The caches of a run without the run: filled ahead, or looked through for what the run needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from velatura.data.views import views_of
from velatura.errors import RecipeError
from velatura.events import Events
from velatura.interfaces import Parts
from velatura.recipe.paths import with_absolute_paths
from velatura.recipe.recipe import Recipe
from velatura.training.caching import (
    fill_latents_cache,
    fill_text_cache,
    latents_cache,
    text_cache,
    texts_to_encode,
)
from velatura.training.settling import settle
from velatura.training.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Built:
    """What was done for the cache of one kind."""

    kind: str  # "latents" or "text"
    needed: int  # entries that the run uses
    encoded: int  # of these, made now
    folder: Path


def build_caches(recipe: Recipe, base: Path, events: Events) -> list[Built]:
    """Encode what training would encode before its first step, and keep nothing loaded.

    Raises what training raises for bad data, models and disks, RecipeError where the run caches nothing.
    """
    setup = settle(with_absolute_paths(recipe, base), base, events)
    for line in setup.encoded_at_every_step():
        events.notice(line)
    if not (setup.caches_text or setup.caches_latents):
        raise RecipeError("this run caches nothing: its images and captions are encoded at every step.")
    built = []
    if setup.caches_text:
        texts = texts_to_encode(setup)
        missing = len(text_cache(setup, events, memory_limit=0).missing(texts))
        cache = fill_text_cache(setup, Parts(info=setup.info, pieces=setup.recipe.memory.autoencoder), events)
        built.append(Built(kind="text", needed=len(texts), encoded=missing, folder=cache.store.folder))
    if setup.caches_latents:
        views = views_of(setup.dataset.everything)
        missing = len(latents_cache(setup, events, memory_limit=0).missing(views))
        latents = fill_latents_cache(
            setup, Parts(info=setup.info, pieces=setup.recipe.memory.autoencoder), events
        )
        built.append(Built(kind="latents", needed=len(views), encoded=missing, folder=latents.store.folder))
    return built


def needed_keys(recipe: Recipe, base: Path, events: Events) -> set[str]:
    """The keys of all cache entries that training with this recipe would read. Raises as `build_caches` does."""
    setup = settle(with_absolute_paths(recipe, base), base, events)
    return _text_keys(setup) | _latents_keys(setup)


def _text_keys(setup: Setup) -> set[str]:
    if not setup.caches_text:
        return set()
    return text_cache(setup, Events(), memory_limit=0).keys(texts_to_encode(setup))


def _latents_keys(setup: Setup) -> set[str]:
    if not setup.caches_latents:
        return set()
    views = views_of(setup.dataset.everything)
    return latents_cache(setup, Events(), memory_limit=0).keys(views)
