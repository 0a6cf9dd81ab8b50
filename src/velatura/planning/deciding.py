"""A run's placement, decided before a weight is read: what its recipe leaves open, so that a budget is met."""

from __future__ import annotations

from collections.abc import Collection

from velatura.data.caches.cache_place import readable
from velatura.data.views import views_of
from velatura.errors import BudgetError, RecipeError
from velatura.events import Events
from velatura.planning.choose import Plan, choose
from velatura.planning.devices import device_here
from velatura.planning.estimate import Estimator
from velatura.planning.sizes import planned_line
from velatura.planning.workload import settled
from velatura.recipe.byte_sizes import size_in_bytes
from velatura.recipe.recipe import Recipe
from velatura.recipe.values import with_values
from velatura.training.caching import latents_cache
from velatura.training.setup import Setup


def decide(setup: Setup, keys: Collection[str], events: Events) -> Recipe:
    """The recipe with values for some of `keys`, named in memory.planned; all else stays.

    Without a budget a GPU of one process is planned for by what is free, and nothing is on other devices. Raises
    BudgetError that says what is needed, for a budget that cannot be met, RecipeError where it cannot be planned for.
    """
    recipe, budget = setup.recipe, setup.recipe.memory.budget
    if budget is None and (setup.device.type != "cuda" or not setup.team.alone or not keys):
        return recipe
    if setup.sharded:
        raise RecipeError(
            f"memory.budget = {budget}: the denoiser's weights are shared out between {setup.team.size} processes, and "
            "a plan knows one. Leave the budget out, and choose settings by hand."
        )
    device = device_here(setup.device)
    size = device.budget if budget is None else size_in_bytes(budget)
    estimator = Estimator(settled(setup), device)
    for remark in estimator.work.remarks:
        events.notice(remark)
    made = choose(estimator, recipe, size, keys, events)
    if not made.fits or (made.estimate.encoded_elsewhere(size) and _to_encode(setup)):
        refusal = _refusal(made, estimator, recipe, events)
        if budget is not None:
            raise BudgetError(refusal)
        events.warn(refusal)
    events.notice(planned_line(device, size, made.sets, made.estimate.needed, made.estimate.highest.name))
    planned = [*recipe.memory.planned, *made.chosen.changes]
    return with_values(made.chosen.recipe, {"memory.planned": planned})


def _to_encode(setup: Setup) -> bool:
    """Whether there are images that are not in the cache yet."""
    views = views_of(setup.dataset.everything)
    return bool(latents_cache(setup, Events(), memory_limit=0).missing(views))


def _refusal(made: Plan, estimator: Estimator, recipe: Recipe, events: Events) -> str:
    """Why the run does not fit, and what would: also by changing what the recipe states."""
    size, estimate = readable(made.budget), made.estimate
    left = ", ".join(made.sets)
    where = f"{size}: it needs {readable(estimate.needed)} ({estimate.highest.name})"
    if not estimate.too_large(made.budget):
        where = f"this machine's memory, though in {size} of the device"
    first = f"this run does not fit in {where}" + (f", with {left}" if left else "")
    wider = made if made.fits else choose(estimator, recipe, made.budget, events=events)
    changes = "".join(f" --set {line}" for line in wider.sets) if wider.fits and wider is not made else ""
    lines = [f"it would fit with{changes}"] * bool(changes) + list(wider.advice)
    return "\n  ".join([first, *lines])
