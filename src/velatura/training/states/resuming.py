"""How a run goes on: after which step, and with what changed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from velatura.errors import RecipeError
from velatura.events import Events, SettingChanged
from velatura.plural import agreeing
from velatura.recipe.plain_toml import toml_value
from velatura.training.live import in_force
from velatura.training.setup import Setup
from velatura.training.states.changes import Change, require_same
from velatura.training.states.identity import Identity
from velatura.training.states.retention import steps_of
from velatura.training.states.saved_states import Saved, load_state
from velatura.training.states.state import RunState


@dataclass(frozen=True, kw_only=True)
class Resume:
    """`step`: of the state to go on from, by default the newest that is whole.

    `forced`: keys of the recipe (or whole sections), "data" or "model", that may differ from what was saved.
    """

    step: int | None = None
    forced: tuple[str, ...] = ()

    def check(self, saved: Saved | None, setup: Setup, identity: Identity) -> None:
        """Refuse to go on from what is `saved` with what may not differ; None where the run has not begun.

        Raises RecipeError.
        """
        if saved is not None:
            self._require_same(saved.identity, setup, identity)
        elif self.forced:
            raise RecipeError(
                f"--force-change {self.forced[0]}: {setup.folder.states} has no state yet, so that nothing can differ "
                "from it; leave the option out"
            )

    def load(self, setup: Setup, identity: Identity, events: Events) -> RunState | None:
        """The state to go on from, and what is to be said about it.

        Raises CheckpointError where no state is whole, and as `check`.
        """
        states = setup.folder.states
        state = load_state(states, events, self.step)
        if state is None:
            events.notice("no saved state yet: starting at step 0")
            return None
        # once more: it is older than the one that was checked, where that one is damaged
        for change in self._require_same(state.identity, setup, identity):
            events(
                SettingChanged(step=state.step, key=change.key, old=change.old, new=change.new, how="forced")
            )
            events.notice(f"insisted on: {change.text}")
        events.notice(f"going on after step {state.step}")
        for line in self._pending(state, setup, identity):
            events.notice(line)
        if later := [step for step in steps_of(states) if step > state.step]:
            events.notice(
                f"{agreeing(len(later), 'the state of step', 'the states of steps')} "
                f"{', '.join(map(str, later))} {agreeing(len(later), 'comes', 'come')} after it, and "
                f"{agreeing(len(later), 'is', 'are')} removed when the next state is saved"
            )
        return state

    def _pending(self, state: RunState, setup: Setup, identity: Identity) -> list[str]:
        """Of what is read again between epochs, that which the file has and which does not count yet."""
        if not setup.recipe.training.live:
            return []
        return [
            f"{key} = {toml_value(value)} stays in force until the epoch ends; the recipe has "
            f"{toml_value(identity.recipe[key])}"
            for key, value in in_force(state.identity.recipe, state.step).items()
            if value != identity.recipe.get(key, value)
        ]

    def _require_same(self, saved: Identity, setup: Setup, identity: Identity) -> list[Change]:
        if setup.recipe.training.live:  # what was in force goes on, until the next epoch
            identity = replace(identity, recipe={**identity.recipe, **in_force(saved.recipe, step=0)})
        return require_same(saved, identity, setup.dataset, setup.folder.data(saved.data), self.forced)
