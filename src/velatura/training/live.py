"""Keys of the recipe that are read again from its file between epochs, where `training.live` asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from velatura.data.batching.order import BatchPlan
from velatura.errors import RecipeError
from velatura.events import Events, SettingChanged
from velatura.recipe.consistency import require_consistent
from velatura.recipe.plain_toml import toml_value
from velatura.recipe.problems import Inconsistent
from velatura.recipe.recipe import Recipe
from velatura.recipe.values import flat, value_at, with_values
from velatura.training.distribution.team import Team

STEPS = "training.steps"
LEARNED = (  # part of a state: a resumed run has those that were in force
    "optimizer.learning_rate",
    "optimizer.clip",
    STEPS,  # by which the learning rate falls
)
KEYS = (
    *LEARNED,
    "training.save_every",
    "validation.every",
    "previews.every",
    "output.keep_states",
    "output.keep_exports",
    "output.keep_every",
)

Reread = Callable[[], Recipe]  # raises RecipeError


@dataclass(kw_only=True)
class Live:
    """The recipe's file while the run is on. The leader reads it, and all processes take over what it found."""

    reread: Reread
    team: Team
    events: Events
    _told: set[str] = field(default_factory=set)  # warnings, each given once

    def look(self, recipe: Recipe, step: int) -> Recipe:
        """The recipe for the steps after `step`; the one in force where the file has nothing new, or is broken."""
        now = dict(flat(recipe.model_dump(mode="json")))
        read = self.team.gathered(self._read() if self.team.leads else None)[0]
        changed = {key: value for key, value in (read or now).items() if now.get(key) != value}
        taken = {key: changed.pop(key) for key in live_keys(recipe) if key in changed}
        if changed:
            self._warn(
                f"these keys of the recipe changed and are not read again: {', '.join(sorted(changed))}"
            )
        if STEPS in taken and taken[STEPS] < step:
            self._warn(f"training.steps = {taken[STEPS]}: {step} are made already, and they stay")
            taken[STEPS] = step
        if not taken:
            return recipe
        merged = with_values(recipe, taken)
        try:
            require_consistent(merged)
        except Inconsistent as error:
            self._warn(f"{', '.join(taken)}: not taken over, what was in force stays so: {error}")
            return recipe
        for key, value in taken.items():
            self.events(SettingChanged(step=step, key=key, old=now[key], new=value, how="live"))
            self.events.notice(f"from step {step + 1} on: {key} was {_shown(now[key])}, is {_shown(value)}")
        return merged

    def _read(self) -> dict[str, Any] | None:
        try:
            return dict(flat(self.reread().model_dump(mode="json")))
        except RecipeError as error:
            self._warn(f"the recipe cannot be read again, and what was in force stays so: {error}")
            return None

    def _warn(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self.events.warn(message)


def live_keys(recipe: Recipe) -> tuple[str, ...]:
    """The keys that are read again; not the steps where a warm-up of tags is a share of them."""
    fixed = any(0 < source.tag_warmup_steps < 1 for source in recipe.data)
    return tuple(key for key in KEYS if key != STEPS or not fixed)


def ends_epoch(plan: BatchPlan, step: int) -> bool:
    """Whether the step after `step` (counted from 1) begins in another epoch than `step` did."""
    before, after = (plan.micro_batches(number)[0][0].epoch for number in (step - 1, step))
    return before != after


def learned(recipe: Recipe) -> dict[str, Any]:
    """Those of a recipe's values that may change while it is learned, and that a state holds."""
    return {key: value_at(recipe, key) for key in live_keys(recipe) if key in LEARNED}


def in_force(values: Mapping[str, Any], step: int) -> dict[str, Any]:
    """What of a state's recipe stays until the epoch ends; not its steps, where all of them were made by `step`."""
    kept = {key: values[key] for key in LEARNED if key in values}
    if kept.get(STEPS, step + 1) <= step:
        del kept[STEPS]
    return kept


def _shown(value: Any) -> str:
    return "not set" if value is None else toml_value(value)
