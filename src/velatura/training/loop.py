"""The loop: steps, validation, previews, states, files. Everything it needs to go on is a step number and values."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from velatura.data.loader import Loader
from velatura.data.plan import tokens_of
from velatura.errors import NumericError
from velatura.events import Events, FileSaved, PhaseFinished, PhaseStarted, StepFinished
from velatura.placement.compiling import compile_blocks, decide, training_flops
from velatura.placement.device import memory_used
from velatura.placement.recompute import recompute
from velatura.plural import counted
from velatura.training.caching import Prepared, load_part
from velatura.training.ema import Ema
from velatura.training.export import export
from velatura.training.finite import all_finite
from velatura.training.identity import Identity
from velatura.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from velatura.training.setup import Setup
from velatura.training.showing import Showing
from velatura.training.state import (
    RunState,
    load_latest,
    optimizer_tensors,
    record_shown,
    save_state,
    set_optimizer_tensors,
)
from velatura.training.step import FP16_REMEDY, Stepper, StepResult
from velatura.training.stop import StopRequest
from velatura.training.trainables import make_trainables

FINISHING_BATCHES = 16  # micro-batches that an objective's last touches may look at


class Loop:
    """One run's loop. `step` counts finished optimizer steps."""

    def __init__(
        self, setup: Setup, identity: Identity, prepared: Prepared, events: Events, stop: StopRequest
    ) -> None:
        self.setup = setup
        self.identity = identity
        self.prepared = prepared
        self.events = events
        self.stop = stop
        self.parts = prepared.parts
        self.step = 0
        self.skipped = 0
        self.saved: Path | None = None  # the newest state, once there is one
        self.saved_step = -1
        self.exported: list[Path] = []
        for name in setup.stays_loaded:
            load_part(setup, self.parts, name, events)
        self.trainables = make_trainables(setup.recipe, setup.family, self.parts)
        events.notice(self.trainables.report)
        self.optimizer = make_optimizer(setup.recipe.optimizer, self.trainables.parameters)
        self.ema = Ema(self.trainables, setup.recipe.ema.decay) if setup.recipe.ema else None
        self.stepper = Stepper(
            family=setup.family,
            parts=self.parts,
            objective=setup.objective,
            optimizer=self.optimizer,
            parameters=list(self.trainables.parameters.values()),
            clip=setup.recipe.optimizer.clip,
            device=setup.device,
            dtype=setup.dtype,
            autocast=self.trainables.adapter is None,
        )
        self.showing = Showing(setup, prepared, self.stepper, self._shown, events, stop)
        self._place_blocks()

    def run(self) -> bool:
        """Train to the last step, or to a stop request (then False: what there is is saved, and the run can go on).

        Raises NumericError, saying which state was saved last, and StorageError.
        """
        try:
            return self._run()
        except NumericError as error:
            kept = f"The last state saved is {self.saved}." if self.saved else "No state was saved yet."
            raise NumericError(f"{error} {kept}") from None

    def _run(self) -> bool:
        steps = self.setup.recipe.training.steps
        if self.step < steps:
            self._show()  # the baseline, or what a stop left out
        started = time.perf_counter()
        self.events(PhaseStarted(phase="train", total=steps, unit="steps"))
        with self._loader() as loader:
            while self.step < steps and not self.stop.asked:
                self._one_step(loader, steps)
                if self.step < steps:
                    self._save_where_due(steps)
                    self._show()
        self.events(PhaseFinished(phase="train", seconds=time.perf_counter() - started))
        if self.step < steps:
            self._save_state()
            self.events.notice(f"stopped after step {self.step}; go on with --resume")
            return False
        return self._finish()

    def _one_step(self, loader: Loader, steps: int) -> None:
        started = time.perf_counter()
        set_learning_rate(
            self.optimizer, rate := learning_rate(self.setup.recipe.optimizer, self.step + 1, steps)
        )
        batches = loader.batches(self.step)
        result = self.stepper(batches, self.setup.recipe.seed, self.step)
        self.step += 1
        self.showing.begin_step()
        if result.skipped:
            self.skipped += 1
        elif self.ema is not None:
            self.ema.update(self.step)
        self._tell(
            result, rate, sum(len(batch.names) for batch in batches), time.perf_counter() - started, steps
        )

    def _save_where_due(self, steps: int) -> None:
        if self.step % (self.setup.recipe.training.save_every or max(50, steps // 4)) == 0:
            self._save_state()
            self._export()

    def _show(self) -> bool:
        """Validation and previews, as far as they are due; a state of this step remembers how far they came."""
        done = self.showing.show(self.step)
        if self.saved is not None and self.saved_step == self.step:
            record_shown(self.saved, validated=self.showing.validated, painted=self.showing.painted)
        return done

    def _finish(self) -> bool:
        """All steps are made. Whether what is due after the last one could be shown."""
        if self.skipped == self.step:
            raise NumericError(
                f"fp16 overflowed in {'each of the ' * (self.step > 1)}{counted(self.step, 'step')}, which were all "
                f"skipped: nothing was learned. {FP16_REMEDY}"
            )
        self._save_state()
        with self._loader() as loader, self._shown():
            few = (batch for step in range(FINISHING_BATCHES) for batch in loader.batches(step))
            moved = (batch.to(self.setup.device, self.setup.dtype) for batch in few)
            with self.stepper.precision():
                self.setup.objective.finish(self.setup.family, self.parts, moved)
        self._export()
        if done := self._show():
            return done
        self.events.notice("stopped after the last step; --resume shows what is left out")
        return False

    def _place_blocks(self) -> None:
        training = self.setup.recipe.training
        if self.parts.denoiser is None:
            return
        blocks = self.setup.family.blocks(self.parts.denoiser)
        if training.checkpoint_blocks:
            recompute(blocks)
        sizes = self.setup.dataset.sizes
        tokens = max(tokens_of(size, self.setup.info.size_step) for size in sizes)
        each = (
            training.batch_size if training.batch_tokens is None else max(1, training.batch_tokens // tokens)
        )
        images = training.steps * each * training.accumulate
        flops = training_flops(blocks, tokens, images)
        if decide(training.compile, flops=flops, device=self.setup.device):
            self.events.notice(
                f"compiling {counted(len(blocks), 'block')}; the first step of each size takes longer"
            )
            compile_blocks(blocks, len(sizes))

    def _loader(self) -> Loader:
        return Loader(
            self.setup.dataset.plan,
            seed=self.setup.recipe.seed,
            caption_dropout=self.setup.caption_dropout,
            latents=self.prepared.latents,
            text=self.prepared.text,
        )

    def _shown(self) -> AbstractContextManager[None]:
        """The weights that are saved and shown: averages where the recipe asks for them."""
        return nullcontext() if self.ema is None else self.ema.in_place()

    def _export(self) -> None:
        self._require_finite()
        with self._shown():
            self.exported = export(self.setup, self.parts, self.trainables, self.step)
        for path in self.exported:
            self.events(
                FileSaved(step=self.step, what="model" if path.is_dir() else "adapter", path=str(path))
            )

    def _save_state(self) -> None:
        if self.saved_step == self.step:
            return
        self._require_finite()
        state = RunState(
            step=self.step,
            identity=self.identity,
            values=self.trainables.values(),
            average=None if self.ema is None else self.ema.average,
            optimizer=optimizer_tensors(self.optimizer, self.trainables.parameters),
            scaler=self.stepper.scaler.state_dict(),
            skipped=self.skipped,
            validated=self.showing.validated,
            painted=self.showing.painted,
        )
        self.saved = save_state(self.setup.folder.states, state, keep=self.setup.recipe.output.keep_states)
        self.saved_step = self.step
        self.events(FileSaved(step=self.step, what="state", path=str(self.saved)))

    def _require_finite(self) -> None:
        average = {} if self.ema is None else self.ema.average
        if not all_finite([*self.trainables.values().values(), *average.values()]):
            raise NumericError(f"after step {self.step}: trained weights are not finite, and are not saved.")

    def resume(self) -> None:
        """Take over the newest whole state, which is of this run (`identity.require_same`)."""
        state = load_latest(self.setup.folder.states, self.events)
        if state is None:
            self.events.notice("no saved state yet: starting at step 0")
            return
        self.trainables.set_values(state.values)
        set_optimizer_tensors(self.optimizer, self.trainables.parameters, state.optimizer)
        if self.ema is not None and state.average is not None:
            self.ema.load(state.average)
        if state.scaler:
            self.stepper.scaler.load_state_dict(dict(state.scaler))
        self.step, self.skipped = state.step, state.skipped
        self.saved, self.saved_step = self.setup.folder.state(state.step), state.step
        self.showing.validated, self.showing.painted = state.validated, state.painted
        self.events.notice(f"going on after step {self.step}")
        if self.step > (steps := self.setup.recipe.training.steps):
            self.events.warn(f"training.steps = {steps}: more are made already, and they stay")

    def _tell(self, result: StepResult, rate: float, images: int, seconds: float, steps: int) -> None:
        self.events(
            StepFinished(
                step=self.step,
                steps=steps,
                loss=result.loss,
                grad_norm=result.grad_norm,
                learning_rate=rate,
                seconds=seconds,
                images=images,
                memory=memory_used(self.setup.device),
                skipped=self.skipped,
                terms=result.terms,
            )
        )
