"""Validation and previews: what is due after a step is made exactly once, also where a stop comes in between."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from velatura.data.batching.order import OrderedPlan
from velatura.data.loader import Loader
from velatura.data.progress import phase
from velatura.errors import NumericError
from velatura.events import Events, ValidationFinished
from velatura.interfaces import Batch
from velatura.plural import counted
from velatura.training.caching import Prepared
from velatura.training.ema import LABELS, Holding, Weights, chosen
from velatura.training.previews import PlannedPreview, paint_preview
from velatura.training.reporting.previews_page import write_previews_page
from velatura.training.setup import Setup
from velatura.training.step import Stepper
from velatura.training.stop import StopRequest
from velatura.training.validation import validation_loss


class _LeftOff(Exception):
    """Someone asked to stop while something was being shown; it is made from its beginning another time."""


@dataclass(frozen=True, kw_only=True)
class _Due:
    """A preview that is due, painted with these weights into a file of this name."""

    name: str
    weights: Weights
    preview: PlannedPreview

    @property
    def key(self) -> str:
        """What it is told from others by, also where a run goes on with other previews."""
        asked = hashlib.blake2b(repr(self.preview.request).encode(errors="replace"), digest_size=8)
        return f"{self.name} {asked.hexdigest()}"


class Showing:
    """Shows what was learned. `validated` and `painted` say what of that which is due after the last step is made."""

    def __init__(
        self,
        setup: Setup,
        prepared: Prepared,
        stepper: Stepper,
        holding: Holding,
        painting: Callable[[], AbstractContextManager[None]],
        events: Events,
        stop: StopRequest,
    ) -> None:
        self.setup = setup
        self.prepared = prepared
        self.stepper = stepper
        self.holding = holding
        self.painting = painting
        self.events = events
        self.stop = stop
        self.validated = False
        self.painted: tuple[str, ...] = ()  # keys of previews

    def begin_step(self) -> None:
        """A step is made: what is due after it is all still to do."""
        self.validated, self.painted = False, ()

    def show(self, step: int) -> bool:
        """Make what is due after `step` and not made yet, until someone asks to stop: what is in hand then is left off.

        Whether all is made. Raises NumericError for a validation loss that is not finite, StorageError.
        """
        if self._validation_is_due(step) and not self.validated and not self._asked_to_stop():
            self._validate(step)
        if (left := self._left(step)) and not self._asked_to_stop():
            self._preview(step, left)
        return not self._left(step) and (self.validated or not self._validation_is_due(step))

    def _asked_to_stop(self) -> bool:
        """Any process: what is shown is computed by all of them together."""
        return self.setup.team.any(self.stop.asked)

    def _unless_asked(self, advance: Callable[[], None]) -> Callable[[], None]:
        """Count as `advance` does, and leave off where someone asked to stop: a signal may be followed by a kill."""

        def count() -> None:
            advance()
            if self._asked_to_stop():
                raise _LeftOff

        return count

    def _validation_is_due(self, step: int) -> bool:
        last = step == self.setup.recipe.training.steps
        validations = self.setup.dataset.validations
        return bool(validations) and step > 0 and (last or step % self.setup.recipe.validation.every == 0)

    def _left(self, step: int) -> list[_Due]:
        """What is still to be painted after a step, in order; an average that is at its start looks like the start."""
        section, ema, steps = (
            self.setup.recipe.previews,
            self.setup.recipe.ema,
            self.setup.recipe.training.steps,
        )
        if not (
            section.baseline
            if step == 0
            else step == steps or step % (section.every or max(1, steps // 10)) == 0
        ):
            return []
        kinds = chosen(ema.previewed) if ema is not None and step > 0 else chosen("raw")
        due = [
            _Due(name=f"{number:02d}{LABELS[weights]}", weights=weights, preview=preview)
            for weights in kinds
            for number, preview in enumerate(self.prepared.previews)
        ]
        return [one for one in due if one.key not in self.painted]

    def _validate(self, step: int) -> None:
        plans = self.setup.dataset.validation_plans()
        steps = sum(plan.steps for plan in plans.values())
        losses: dict[str, float] = {}
        with (
            self.holding("raw" if self.setup.recipe.ema is None else "average"),
            phase(self.events, "validation", steps, "steps") as current,
            suppress(_LeftOff),
        ):
            advance = self._unless_asked(current.advance)
            losses = {name: self._loss(plan, step, advance) for name, plan in plans.items()}
        if not losses:
            self.events.notice(f"the validation of step {step} is left out; --resume makes it")
            return
        self.validated = True
        for name, loss in losses.items():
            self.events(ValidationFinished(step=step, loss=loss, name=name))

    def _loss(self, plan: OrderedPlan, step: int, advance: Callable[[], None]) -> float:
        share, prepared = self.setup.team.share, self.prepared
        with Loader(plan, latents=prepared.latents, text=prepared.text, share=share) as loader:

            def batches() -> Iterator[Batch]:
                for number in range(plan.steps):
                    yield from loader.batches(number)
                    advance()

            try:
                return validation_loss(self.stepper, batches(), self.setup.recipe.validation.times)
            except NumericError as error:
                raise NumericError(f"after step {step}: {error}") from None

    def _preview(self, step: int, previews: Sequence[_Due]) -> None:
        steps = sum(one.preview.request.steps or 0 for one in previews)
        with phase(self.events, "previews", steps, "steps") as current:
            advance = self._unless_asked(current.advance)
            with suppress(_LeftOff):
                for weights, group in groupby(previews, key=attrgetter("weights")):
                    if self._asked_to_stop():
                        break
                    # autocast keeps copies of weights until its block ends, and does not see that they change
                    with self.holding(weights), self.painting(), self.stepper.precision():
                        for one in group:
                            if self._asked_to_stop():
                                break
                            self._paint(step, one, advance)
        if left := len(self._left(step)):
            self.events.notice(
                f"{counted(left, 'preview')} of step {step} left out; --resume paints what is missing"
            )
        if self.setup.team.leads:
            write_previews_page(self.setup.folder)

    def _paint(self, step: int, due: _Due, advance: Callable[[], None]) -> None:
        path = self.setup.folder.previews(step) / f"{due.name}.png"
        paint_preview(
            due.preview,
            self.setup.family,
            self.stepper.parts,
            path=path if self.setup.team.leads else None,
            step=step,
            device=self.setup.device,
            dtype=self.setup.dtype,
            events=self.events,
            advance=advance,
        )
        self.painted += (due.key,)
