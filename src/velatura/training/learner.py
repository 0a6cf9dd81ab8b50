"""What learns: the trained values, what moves them, and their average; all of it that a state holds."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from velatura.errors import CheckpointError, NumericError
from velatura.events import Events
from velatura.interfaces import Parts
from velatura.training.distribution.sharding import shard
from velatura.training.ema import Ema, Weights
from velatura.training.health.finite import all_finite
from velatura.training.health.guard import Guard
from velatura.training.health.splitting import Splitter
from velatura.training.optimizer import make_optimizer
from velatura.training.optimizers.by_path import usable_weights
from velatura.training.optimizers.saving import optimizer_tensors, set_optimizer_tensors
from velatura.training.placing import compiler_of_updates, place_blocks, visits_for
from velatura.training.setup import Setup
from velatura.training.starting import take_values
from velatura.training.states.identity import Identity
from velatura.training.states.state import RunState
from velatura.training.step import Stepper
from velatura.training.trainables import make_trainables

KINDS = ("optimizer.kind", "full.weights")  # moments of one kind mean nothing to another


class Learner:
    """Makes what the recipe trains out of loaded `parts`. Raises as `Trainables`, `place_blocks` and `Guard` do."""

    def __init__(self, setup: Setup, parts: Parts, events: Events) -> None:
        self.setup = setup
        self.trainables = make_trainables(setup.recipe, setup.family, parts)
        take_values(self.trainables, setup.recipe)
        events.notice(self.trainables.report)
        if self.trainables.remark:
            events.warn(self.trainables.remark)
        self.placed = place_blocks(setup, parts, events)
        if setup.sharded:
            assert parts.denoiser is not None
            shard(setup.family, parts.denoiser, setup.device, setup.team)
            self.trainables = self.trainables.renewed(parts)
        self.optimizer = make_optimizer(
            setup.recipe.optimizer,
            self.trainables.parameters,
            seed=setup.recipe.seed,
            visits=visits_for(setup, self.placed),
            compiled=compiler_of_updates(setup, self.trainables.parameters, events),
        )
        self.ema = Ema(self.trainables, setup.recipe.ema) if setup.recipe.ema else None
        self.splitter = Splitter(
            events=events,
            scale=setup.info.latent_scale,
            limit=setup.recipe.memory.micro_batch,
            shrinks=setup.recipe.training.retry_on_oom,
        )
        self.stepper = Stepper(
            family=setup.family,
            parts=parts,
            objective=setup.objective,
            optimizer=self.optimizer,
            parameters=list(self.trainables.parameters.values()),
            clip=setup.recipe.optimizer.clip,
            device=setup.device,
            dtype=setup.dtype,
            autocast=self.trainables.autocast,
            splitter=self.splitter,
            team=setup.team,
        )
        self.guard = Guard(setup.recipe, self.stepper, self.ema, events)

    def holding(self, weights: Weights) -> AbstractContextManager[None]:
        """Within the block the model holds these weights, fit for use."""
        return usable_weights(self.optimizer) if self.ema is None or weights == "raw" else self.ema.in_place()

    def painting(self) -> AbstractContextManager[None]:
        """Within the block, in which no weight changes, the denoiser is where `previews.streamed` wants it."""
        memory, share = self.setup.recipe.memory, self.setup.recipe.previews.streamed
        if self.placed is None or share is None:
            return nullcontext()
        return self.placed.brought(max(0.0, memory.streamed - share))

    def state(
        self, step: int, identity: Identity, *, exported: bool, validated: bool, painted: tuple[str, ...]
    ) -> RunState:
        """Everything as it is after `step`. Raises NumericError for weights that are not finite."""
        values, average = self.trainables.values(), None if self.ema is None else self.ema.average
        if not all_finite([*values.values(), *(average or {}).values()]):
            raise NumericError(f"after step {step}: trained weights are not finite, and are not saved.")
        return RunState(
            step=step,
            identity=identity,
            values=values,
            average=average,
            optimizer=optimizer_tensors(
                self.optimizer, self.trainables.parameters, groups=self.setup.recipe.optimizer.by_path
            ),
            scaler=self.stepper.scaler.state_dict(),
            skipped=self.guard.skipped,
            left_out=self.guard.left_out,
            fitting=self.splitter.most,
            exported=exported,
            validated=validated,
            painted=painted,
        )

    def take(self, state: RunState, identity: Identity) -> None:
        """Be as `state` says, in a run of this `identity`. Raises CheckpointError for a state that does not fit."""
        try:
            self.trainables.set_values(state.values)
        except CheckpointError as error:  # the model was insisted on
            raise CheckpointError(
                f"the state of step {state.step} does not fit: {error}. Take back what was insisted on, or start a run "
                "with another name."
            ) from error
        if all(
            state.identity.recipe.get(key) == identity.recipe.get(key) for key in KINDS
        ):  # else insisted on
            set_optimizer_tensors(self.optimizer, self.trainables.parameters, state.optimizer)
        if self.ema is not None:
            self.ema.load(state.values if state.average is None else state.average)
        if state.scaler:
            self.stepper.scaler.load_state_dict(dict(state.scaler))
        self.guard.skipped, self.guard.left_out = state.skipped, state.left_out
        self.splitter.most.update(state.fitting)
