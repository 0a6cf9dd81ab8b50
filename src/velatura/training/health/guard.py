"""A step, and what is done where its numbers or its memory go wrong."""

from __future__ import annotations

from collections.abc import Sequence

from torch.distributed.tensor import DTensor

from velatura.adapters.attach import Adapter
from velatura.errors import NumericError
from velatura.events import Events, StepLeftOut
from velatura.interfaces import Batch
from velatura.placement.shortage import is_shortage
from velatura.plural import counted
from velatura.recipe.recipe import Recipe
from velatura.training.ema import Ema
from velatura.training.health.idle_layers import IdleLayers
from velatura.training.health.memory_account import account, shortage
from velatura.training.health.spikes import SpikeWatch
from velatura.training.step import NotFiniteStep, Stepper, remedy_for
from velatura.training.step_result import StepResult


class Guard:
    """Makes steps; counts those that fp16 skipped, and those that were left out because they were not finite."""

    def __init__(self, recipe: Recipe, stepper: Stepper, ema: Ema | None, events: Events) -> None:
        self.recipe = recipe
        self.stepper = stepper
        self.ema = ema
        self.events = events
        self.skipped = 0
        self.left_out = 0
        self.spikes = SpikeWatch()

    def watch(self, adapter: Adapter | None, steps: int) -> None:
        """Look for layers that learn nothing in the next `steps` steps."""
        if adapter is not None:
            IdleLayers(adapter, self.stepper.optimizer, self.events, steps)

    def step(self, batches: Sequence[Batch], step: int) -> StepResult | None:
        """Make step `step`, counted from 0; None where it was left out.

        Raises NumericError where the recipe does not allow that, MemoryShortage.
        """
        try:
            result = self.stepper(batches, self.recipe.seed, step)
        except NotFiniteStep as error:
            self._leave_out(error, step)
            return None
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            average = {} if self.ema is None else self.ema.average
            held = account(self.stepper.parts, self.stepper.optimizer, average, self.stepper.device)
            scale = self.stepper.parts.info.latent_scale
            sharded = any(isinstance(parameter, DTensor) for parameter in self.stepper.parameters)
            batch = self.stepper.in_hand
            raise shortage(
                error, held, self.recipe, batch, scale=scale, step=step + 1, sharded=sharded
            ) from error
        self.skipped += result.skipped
        if warning := self.spikes.look(result.items, step + 1):
            self.events.warn(warning)
        return result

    def require_learned(self, steps: int) -> None:
        """Raise NumericError where none of the steps that were made updated anything."""
        if self.left_out + self.skipped < steps:
            return
        if self.left_out:
            what = f"of {counted(steps, 'step')} {self.left_out} had a loss or gradient that is not finite, and in "
            what += f"{self.skipped} fp16 overflowed: all were left out, and"
        else:
            what = f"fp16 overflowed in {'each of the ' * (steps > 1)}{counted(steps, 'step')}, which were all skipped:"
        raise NumericError(f"{what} nothing was learned. {remedy_for(self.stepper.dtype)}")

    def _leave_out(self, error: NotFiniteStep, step: int) -> None:
        allowed = self.recipe.training.skip_nonfinite
        if self.left_out >= allowed:
            more = (
                f" training.skip_nonfinite = {allowed}, and so many were left out before." if allowed else ""
            )
            raise NumericError(f"{error}{more}") from error
        self.left_out += 1
        self.events(StepLeftOut(step=step + 1, message=str(error), left_out=self.left_out))
        self.events.warn(
            f"left out, {self.left_out} of {allowed} that training.skip_nonfinite allows: {error}"
        )
