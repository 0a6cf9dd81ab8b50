"""A run's placement, decided before a weight is read: what its recipe leaves open, so that a budget is met."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from velatura.data.views import views_of
from velatura.errors import BudgetError, RecipeError
from velatura.events import Events
from velatura.planning.choose import Plan, choose
from velatura.planning.devices import GIB, Device, device_here
from velatura.planning.estimate import Estimator
from velatura.planning.figures import enough, within
from velatura.planning.sizes import planned_line
from velatura.planning.workload import settled
from velatura.recipe.byte_sizes import size_in_bytes
from velatura.recipe.recipe import Recipe
from velatura.recipe.values import with_values
from velatura.training.caching import latents_cache
from velatura.training.setup import Setup

EXCHANGED = GIB // 2  # of a GPU, with several processes: NCCL's buffers, and a piece of gradients in float32


def decide(setup: Setup, keys: Collection[str], events: Events) -> Recipe:
    """The recipe with values for some of `keys`, named in memory.planned; all else stays.

    Without a budget a GPU is planned for by what is free, and nothing is on other devices. Of several processes, which
    all call this, the leader plans for all, by the GPU with the least that is free. Raises BudgetError that says what
    is needed, for a budget that cannot be met, RecipeError where it cannot be planned for.
    """
    recipe, budget, team = setup.recipe, setup.recipe.memory.budget, setup.team
    if budget is None and (setup.device.type != "cuda" or setup.sharded or not keys):
        return recipe
    if setup.sharded:
        raise RecipeError(
            f"memory.budget = {budget}: the denoiser's weights are shared out between {setup.team.size} processes, and "
            "a plan knows one. Leave the budget out, and choose settings by hand."
        )
    device = device_here(setup.device)
    size = min(team.gathered(device.budget)) if budget is None else size_in_bytes(budget)
    if not team.alone and device.kind == "cuda":
        size -= EXCHANGED
    if device.host is not None:  # which the processes of a machine share
        device = replace(device, host=device.host // team.launch.local_size)
    changes = _planned(setup, device, size, keys, events) if team.leads else {}
    return with_values(recipe, team.gathered(changes)[0])


def _planned(
    setup: Setup, device: Device, size: int, keys: Collection[str], events: Events
) -> Mapping[str, Any]:
    """What is chosen for so many bytes of a device, by key, with memory.planned."""
    recipe = setup.recipe
    estimator = Estimator(settled(setup), device)
    for remark in estimator.work.remarks:
        events.notice(remark)
    made = choose(estimator, recipe, size, keys, events)
    if not made.fits or (made.estimate.encoded_elsewhere(size) and _to_encode(setup)):
        refusal = _refusal(made, estimator, recipe, events)
        if recipe.memory.budget is not None:
            raise BudgetError(refusal)
        events.warn(refusal)
    events.notice(planned_line(device, size, made.sets, made.estimate.needed, made.estimate.highest.name))
    return {**made.chosen.changes, "memory.planned": [*recipe.memory.planned, *made.chosen.changes]}


def _to_encode(setup: Setup) -> bool:
    """Whether there are images that are not in the cache yet."""
    views = views_of(setup.dataset.everything)
    return bool(latents_cache(setup, Events(), memory_limit=0).missing(views))


def _refusal(made: Plan, estimator: Estimator, recipe: Recipe, events: Events) -> str:
    """Why the run does not fit, and what would: also by changing what the recipe states."""
    size, estimate = within(made.budget), made.estimate
    left = ", ".join(made.sets)
    where = f"{size}: it needs {enough(estimate.needed)} ({estimate.highest.name})"
    if not estimate.too_large(made.budget):
        where = f"this machine's memory, though in {size} of the device"
    first = f"this run does not fit in {where}" + (f", with {left}" if left else "")
    wider = made if made.fits else choose(estimator, recipe, made.budget, events=events)
    changes = "".join(f" --set {line}" for line in wider.sets) if wider.fits and wider is not made else ""
    lines = [f"it would fit with{changes}"] * bool(changes) + list(wider.advice)
    return "\n  ".join([first, *lines])
