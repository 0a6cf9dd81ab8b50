"""Validation and previews: what is due after a step is made exactly once, also where a stop comes in between."""

from __future__ import annotations

from velatura.data.loader import Loader
from velatura.data.progress import phase
from velatura.errors import NumericError
from velatura.events import Events, ValidationFinished
from velatura.plural import counted
from velatura.training.caching import Prepared
from velatura.training.ema import Shown
from velatura.training.previews import paint_preview
from velatura.training.previews_page import write_previews_page
from velatura.training.setup import Setup
from velatura.training.step import Stepper
from velatura.training.stop import StopRequest
from velatura.training.validation import validation_loss


class Showing:
    """Shows what was learned. `validated` and `painted` say how much of what is due after the last step is made."""

    def __init__(
        self,
        setup: Setup,
        prepared: Prepared,
        stepper: Stepper,
        shown: Shown,
        events: Events,
        stop: StopRequest,
    ) -> None:
        self.setup = setup
        self.prepared = prepared
        self.stepper = stepper
        self.shown = shown
        self.events = events
        self.stop = stop
        self.validated = False
        self.painted = 0

    def begin_step(self) -> None:
        """A step is made: what is due after it is all still to do."""
        self.validated, self.painted = False, 0

    def show(self, step: int) -> bool:
        """Make what is due after `step` and not made yet; nothing is begun any more once someone asked to stop.

        Whether all is made. Raises NumericError for a validation loss that is not finite, StorageError.
        """
        if self._validation_is_due(step) and not self.validated and not self.stop.asked:
            self._validate(step)
        previews = len(self.prepared.previews) if self._previews_are_due(step) else 0
        if self.painted < previews and not self.stop.asked:
            self._preview(step, previews)
        return self.painted >= previews and (self.validated or not self._validation_is_due(step))

    def _validation_is_due(self, step: int) -> bool:
        last = step == self.setup.recipe.training.steps
        held_out = self.setup.dataset.held_out
        return bool(held_out) and step > 0 and (last or step % self.setup.recipe.validation.every == 0)

    def _previews_are_due(self, step: int) -> bool:
        section, steps = self.setup.recipe.previews, self.setup.recipe.training.steps
        if step == 0:
            return section.baseline
        return step == steps or step % (section.every or max(1, steps // 10)) == 0

    def _validate(self, step: int) -> None:
        plan = self.setup.dataset.validation
        assert plan is not None
        loader = Loader(plan, latents=self.prepared.latents, text=self.prepared.text)
        with self.shown(), loader:
            batches = (batch for number in range(plan.steps) for batch in loader.batches(number))
            try:
                loss = validation_loss(self.stepper, batches, self.setup.recipe.validation.times)
            except NumericError as error:
                raise NumericError(f"after step {step}: {error}") from None
        self.validated = True
        self.events(ValidationFinished(step=step, loss=loss))

    def _preview(self, step: int, count: int) -> None:
        planned = self.prepared.previews[self.painted : count]
        folder = self.setup.folder.previews(step)
        steps = sum(preview.request.steps or 0 for preview in planned)
        with (
            self.shown(),
            self.stepper.precision(),
            phase(self.events, "previews", steps, "steps") as current,
        ):
            for preview in planned:
                if self.stop.asked:
                    left = counted(count - self.painted, "preview")
                    self.events.notice(f"{left} of step {step} left out; --resume paints what is missing")
                    break
                paint_preview(
                    preview,
                    self.setup.family,
                    self.stepper.parts,
                    path=folder / f"{self.painted:02d}.png",
                    step=step,
                    device=self.setup.device,
                    dtype=self.setup.dtype,
                    events=self.events,
                    advance=current.advance,
                )
                self.painted += 1
        write_previews_page(self.setup.folder)
