"""What a run is told before it begins: settings that are allowed and may not do what they seem to."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from velatura.errors import RecipeError
from velatura.plural import agreeing, counted
from velatura.recipe.values import value_at
from velatura.training.distribution.sharding import kept_on_device
from velatura.training.optimizers.by_path import averages, make_by_path, try_out
from velatura.training.reporting.wandb_log import import_wandb
from velatura.training.setup import Setup

LITTLE = 0.1  # learning rates up to this are none for an optimizer that finds its own


def remarks(setup: Setup) -> Iterator[str]:
    """Warnings for the user. Raises RecipeError for a key that would have no effect at all."""
    _require_guided(setup)
    if setup.recipe.output.wandb is not None:
        import_wandb()
    _require_alone(setup)
    yield from _warmup(setup)
    yield from _foreign_optimizer(setup)
    yield from _trained_on_too(setup)


def _require_guided(setup: Setup) -> None:
    """Recipes are checked for this by configs; what a single file holds is known only here."""
    section, info = setup.recipe.model, setup.info
    guidance = getattr(section, "guidance", None)
    if guidance is None or info.guided or guidance == type(section).model_fields["guidance"].default:
        return
    raise RecipeError(
        f"model.guidance = {guidance:g} was received, and this model ({info.family} {info.variant}) has no distilled "
        "guidance: it would have no effect. Leave it out."
    )


def _require_alone(setup: Setup) -> None:
    if setup.recipe.optimizer.fused_backward and not setup.team.alone:
        raise RecipeError(
            f"optimizer.fused_backward = true with {setup.team.size} processes: their gradients are added up before an "
            "update. Leave it out, or train with one process."
        )
    for key in kept_on_device(setup.recipe, setup.team):
        if value_at(setup.recipe, key):
            raise RecipeError(
                f"{key} with [full] and {setup.team.size} processes: what they share out or add up lies on their "
                "devices. Leave it out, or train with one process."
            )


def _foreign_optimizer(setup: Setup) -> Iterator[str]:
    """A class by import path: what it does to a small tensor tells whether it can be used at all."""
    section = setup.recipe.optimizer
    if not section.by_path:
        return
    if not try_out(section, setup.device):
        yield (
            f'optimizer.kind = "{section.kind}" keeps something that a state cannot hold: a run that is stopped and '
            "resumed will not be exactly the run that was never stopped"
        )
    optimizer = make_by_path(section, {"x": nn.Parameter(torch.zeros(1))})
    if any("d0" in group for group in optimizer.param_groups) and section.learning_rate <= LITTLE:
        yield (
            f'optimizer.kind = "{section.kind}" finds the size of its steps by itself, and '
            f"learning_rate = {section.learning_rate:g} is a factor of it; it is meant to be 1"
        )
    if averages(optimizer) and section.schedule != "constant":
        yield (
            f'optimizer.kind = "{section.kind}" averages weights in place of a falling learning rate, and '
            f'schedule = "{section.schedule}" lowers it all the same; it is meant to go with schedule = "constant"'
        )


def _warmup(setup: Setup) -> Iterator[str]:
    warmup, steps = setup.recipe.optimizer.warmup_steps, setup.recipe.training.steps
    if warmup >= steps:
        yield (
            f"optimizer.warmup_steps = {warmup} and training.steps = {steps}: the run ends within its warm-up, at "
            f"{steps / warmup:.0%} of the learning rate; fewer warmup_steps leave room for training"
        )


def _trained_on_too(setup: Setup) -> Iterator[str]:
    """Validation images that are trained on, whatever their names."""
    trained = {entry.item.content for entry in setup.dataset.entries}
    held_out = {entry.item.content: entry.item.name for entry in setup.dataset.held_out}
    both = [name for content, name in held_out.items() if content in trained]
    if both:
        yield (
            f"{len(both)} of {counted(len(held_out), 'validation image')} {agreeing(len(both), 'is', 'are')} also "
            f"trained on (for example {both[0]}): the validation loss will fall as the run memorises, and not tell it"
        )
