"""Placement is planned once: what a plan chose is written into the run's recipe, and holds when the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import get_args

from velatura.errors import RecipeError
from velatura.events import Events
from velatura.recipe.consistency import is_consistent
from velatura.recipe.recipe import Recipe
from velatura.recipe.sampling.previews import Previews
from velatura.recipe.toml import read_recipe
from velatura.recipe.training.loop import Planned
from velatura.recipe.values import is_stated, value_at, with_values
from velatura.training.distribution.sharding import kept_on_device
from velatura.training.folder import RunFolder
from velatura.training.setup import Setup
from velatura.training.states.identity import is_free

KEYS: tuple[str, ...] = get_args(Planned)
MICRO_BATCH, PREVIEWS_STREAMED = "memory.micro_batch", "previews.streamed"
Planner = Callable[
    [Setup, Collection[str], Events], Recipe
]  # may choose values for the keys that it is given


def with_plan(setup: Setup, planner: Planner | None, events: Events, *, resumed: bool) -> Setup:
    """The run with its placement settled: as it was planned when it began, else by `planner`.

    A resumed run is planned again only where its recipe names another budget, and then without what changes results.
    Raises BudgetError for a budget that cannot be met, RecipeError for one that there is no planner for.
    """
    recipe = setup.recipe
    kept = kept_on_device(recipe, setup.team)
    if setup.sharded:  # its processes must make the same passes
        kept = (*kept, MICRO_BATCH)
    still_open = [key for key in open_keys(recipe) if key not in kept]
    written = _written(setup.folder, events) if resumed else None
    if written is not None and written.memory.budget == recipe.memory.budget:
        return replace(setup, recipe=as_planned(recipe, written, still_open))
    if written is not None:
        recipe = as_planned(recipe, written, [key for key in still_open if not is_free(key)])
        still_open = [key for key in still_open if is_free(key)]
    if planner is not None:
        recipe = planner(replace(setup, recipe=recipe), still_open, events)
    elif recipe.memory.budget is not None:
        raise RecipeError(
            f"memory.budget = {recipe.memory.budget}: nothing plans here; pass `planner` "
            "(velatura.planning.deciding.decide)"
        )
    return replace(setup, recipe=recipe)


def open_keys(recipe: Recipe) -> list[str]:
    """What a plan may choose: its author said nothing of it."""
    return [key for key in KEYS if not is_stated(recipe, key)]


def as_planned(recipe: Recipe, written: Recipe, keys: Collection[str] = KEYS) -> Recipe:
    """A recipe with what was planned for it when its run began, as far as it states nothing else that goes against it.

    What was planned for other previews is left out.
    """
    taken: list[str] = [key for key in written.memory.planned if key in keys and not is_stated(recipe, key)]
    if _previews(recipe) != _previews(written):
        taken = [key for key in taken if key != PREVIEWS_STREAMED]

    def with_planned(chosen: list[str]) -> Recipe:
        values = {key: value_at(written, key) for key in chosen}
        return with_values(recipe, {**values, "memory.planned": chosen}) if chosen else recipe

    fewer = (with_planned([one for one in taken if one != key]) for key in taken)
    return next(filter(is_consistent, (with_planned(taken), *fewer)), recipe)


def _previews(recipe: Recipe) -> Previews:
    return recipe.previews.model_copy(update={"streamed": None})


def _written(folder: RunFolder, events: Events) -> Recipe | None:
    """The recipe that the run wrote when it began; None where it did not, or it cannot be read any more."""
    if not folder.recipe.exists():
        return None
    try:
        return read_recipe(folder.recipe).recipe
    except RecipeError as error:
        events.warn(f"what was planned for this run cannot be read, and is planned again: {error}")
        return None
