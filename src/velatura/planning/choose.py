"""From a budget to the settings that fit it: the fastest ones, or why there are none."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from math import ceil

import torch

from velatura.data.progress import phase
from velatura.errors import BudgetError
from velatura.events import Events
from velatura.planning.advice import ENCODE_AHEAD, remedies
from velatura.planning.candidates import Candidate, candidates, changed
from velatura.planning.estimate import Estimate, Estimator
from velatura.planning.pace import Pace
from velatura.recipe.recipe import Recipe
from velatura.training.planned import MICRO_BATCH, PREVIEWS_STREAMED

NO_FIT = BudgetError.exit_code
FINEST = 20  # parts of the weights of which previews may stream some


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe needs, and with which settings it fits a budget.

    `estimate` is that of what was `chosen`: without a fit it is the most frugal one. `advice` says what else is to do,
    or would help.
    """

    estimate: Estimate
    budget: int
    fits: bool
    chosen: Candidate
    as_written: Estimate  # the recipe without changes
    advice: tuple[str, ...] = field(default=())

    @property
    def sets(self) -> tuple[str, ...]:
        """The changes to the recipe: `section.key=value`."""
        return self.chosen.sets


def choose(
    estimator: Estimator,
    recipe: Recipe,
    budget: int,
    keys: Container[str] | None = None,
    events: Events | None = None,
) -> Plan:
    """The same with an estimator of the recipe at hand, which serves several budgets; `keys`: those that may change."""
    own = estimator.of(recipe)

    def fits(best: Candidate, estimate: Estimate) -> Plan:
        if keys is None or PREVIEWS_STREAMED in keys:
            best, estimate = _with_previews(estimator, recipe, best, estimate, budget)
        advice = _ahead(estimate, budget)
        return Plan(estimate=estimate, as_written=own, budget=budget, fits=True, chosen=best, advice=advice)

    if own.fits(budget):
        return fits(changed(recipe, {}), own)
    seen: dict[tuple[str, ...], Estimate] = {(): own}

    def of(candidate: Candidate) -> Estimate:
        if candidate.sets not in seen:
            seen[candidate.sets] = estimator.of(candidate.recipe)
        return seen[candidate.sets]

    choices = candidates(recipe, estimator.device, keys)
    # the most frugal of those that free gradients at once, and of those that add them up over passes
    frugal = list({choice.recipe.optimizer.fused_backward: choice for choice in choices}.values())
    pace = Pace.of(own, choices[0].slower, _in_passes(estimator, recipe, own, choices))
    # rounded, so that of equals the one that changes least comes first: blocks that are trained and streamed are
    # recomputed, whatever is said of others
    choices.sort(key=lambda choice: float(f"{choice.loss * pace.seconds(choice.recipe, choice.slower):.6g}"))
    with phase(events or Events(), "plan", len(choices), "settings") as searched:

        def possible() -> Iterator[Candidate]:
            if not any(estimator.may_fit(choice.recipe, budget) for choice in frugal):
                return
            for choice in choices:
                searched.advance()
                if estimator.may_fit(choice.recipe, budget):
                    yield choice

        fitting = (choice for choice in possible() if of(choice).fits_device(budget))
        nearest = next(fitting, None)  # enough for the device, perhaps not for the machine
        best = next((choice for choice in chain([nearest], fitting) if choice and of(choice).fits_host), None)
    if best is None:
        least = nearest or min(frugal, key=lambda choice: of(choice).needed)
        advice = tuple(remedies(of(least), budget))
        return Plan(
            estimate=of(least), as_written=own, budget=budget, fits=False, chosen=least, advice=advice
        )
    return fits(best, of(best))


def _in_passes(
    estimator: Estimator, recipe: Recipe, own: Estimate, choices: Sequence[Candidate]
) -> dict[int | None, float]:
    """How many times as long a step computes whose batch is split so: by much, where a small one leaves a GPU idle."""
    values = {choice.recipe.memory.micro_batch for choice in choices}
    if len(values) == 1:
        return {}
    found = {
        value: estimator.of(changed(recipe, {MICRO_BATCH: value}).recipe).computing_of_passes
        for value in values
    }
    return {value: seconds / own.computing_of_passes for value, seconds in found.items()}


def _with_previews(
    estimator: Estimator, recipe: Recipe, best: Candidate, estimate: Estimate, budget: int
) -> tuple[Candidate, Estimate]:
    """What fits, with previews that stream only what the budget has no room for: they keep no activations."""
    streamed = best.recipe.memory.streamed
    painted = next((phase for phase in estimate.phases if phase.name == "preview"), None)
    if estimator.device.kind != "cuda" or not streamed or painted is None:
        return best, estimate
    if best.recipe.previews.streamed is not None:
        return best, estimate
    room = budget - estimate.occupied(painted)
    least = max(0, ceil((streamed - room / estimate.streamable) * FINEST))
    for steps in range(least, round(streamed * FINEST)):
        made = changed(recipe, {**best.changes, PREVIEWS_STREAMED: steps / FINEST})
        found = estimator.of(made.recipe)
        if found.brought and found.fits(budget):
            return replace(made, slower=best.slower, loss=best.loss), found
    return best, estimate


def _ahead(estimate: Estimate, budget: int) -> tuple[str, ...]:
    """How to encode ahead, where a plan rests on that."""
    if not estimate.encoded_elsewhere(budget):
        return ()
    return (ENCODE_AHEAD.format(precision=_precision(estimate)),)


def _precision(estimate: Estimate) -> str:
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(estimate.work.setup.dtype, "fp32")
