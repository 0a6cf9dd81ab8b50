"""What `velatura plan` proposes: settings that fit, also in place of what the recipe states, and faster ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from velatura.data.caches.cache_place import readable
from velatura.events import Events
from velatura.planning.candidates import changed
from velatura.planning.choose import Plan, choose
from velatura.planning.devices import Device
from velatura.planning.estimate import Estimator
from velatura.planning.figures import seconds
from velatura.recipe.recipe import Recipe
from velatura.recipe.values import default_at, is_stated, value_at, with_values
from velatura.training.planned import KEYS, MICRO_BATCH, open_keys

SLOWER = (  # keys that take less memory for more time; int8 is not stated for its memory alone
    "memory.weights",
    "memory.streamed",
    "memory.offload_activations",
    MICRO_BATCH,
    "optimizer.offload",
    "training.checkpoint_blocks",
)
WORTH = 0.95  # of a step's seconds: what saves less is not told


def plan(recipe: Recipe, base: Path, device: Device, budget: int, events: Events | None = None) -> Plan:
    """Plan a recipe and choose settings for a budget in bytes; `events` hear how far that is.

    Raises RecipeError, DataError, ModelError.
    """
    estimator = Estimator.of_recipe(recipe, base, device)
    if device.here and budget > device.memory:
        estimator.work.remarks.append(
            f"the budget of {readable(budget)} is more than this machine's {device.name} has: {readable(device.memory)}"
        )
    made = propose(estimator, recipe, budget, events)
    faster = _faster(estimator, recipe, made, events) if made.fits else None
    return replace(made, advice=(*made.advice, faster)) if faster else made


def propose(estimator: Estimator, recipe: Recipe, budget: int, events: Events | None = None) -> Plan:
    """As a run would choose by itself; where that is not enough, also by changing what the recipe states."""
    made = choose(estimator, recipe, budget, open_keys(recipe), events)
    return made if made.fits else choose(estimator, recipe, budget, events=events)


def _faster(estimator: Estimator, recipe: Recipe, made: Plan, events: Events | None) -> str | None:
    """What would be faster and fits as well, were it not for what the recipe states; `made`: its plan, which fits."""
    frugal = [key for key in SLOWER if is_stated(recipe, key) and _is_frugal(recipe, key)]
    if not frugal:
        return None
    freed = with_values(recipe, {key: default_at(recipe, key) for key in frugal})
    found = choose(estimator, freed, made.budget, {*open_keys(recipe), *frugal}, events)
    if not found.fits or found.estimate.seconds > WORTH * made.estimate.seconds:
        return None
    before, after = seconds(made.estimate.seconds), seconds(found.estimate.seconds)
    if before == after:
        return None
    differing = changed(recipe, {key: value_at(found.chosen.recipe, key) for key in KEYS}).changes
    how = [f"without {key}" for key, value in differing.items() if value is None]  # --set cannot say that
    if sets := changed(recipe, {key: value for key, value in differing.items() if value is not None}).sets:
        how.append("with " + " ".join(f"--set {line}" for line in sets))
    return f"there is room for what is faster: {after} per step in place of {before}, {' and '.join(how)}"


def _is_frugal(recipe: Recipe, key: str) -> bool:
    return value_at(recipe, key) not in (default_at(recipe, key), "int8")
