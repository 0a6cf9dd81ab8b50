"""What a run is told before it begins: settings that are allowed and may not do what they seem to."""

from __future__ import annotations

from collections.abc import Iterator

from velatura.errors import RecipeError
from velatura.plural import agreeing, counted
from velatura.training.setup import Setup


def remarks(setup: Setup) -> Iterator[str]:
    """Warnings for the user. Raises RecipeError for a key that would have no effect at all."""
    _require_guided(setup)
    yield from _warmup(setup)
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
