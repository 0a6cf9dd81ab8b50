"""The loop: steps, validation, previews, states, files. Everything it needs to go on is a step number and values."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from velatura.checkpoints.writing import write_bytes
from velatura.data.loader import Loader
from velatura.data.sharing import ALL, Share
from velatura.errors import MemoryShortage, NumericError, StorageError
from velatura.events import Events, FileSaved, PhaseFinished, PhaseStarted, StepFinished
from velatura.placement.device import forget_peak, memory_used
from velatura.placement.heap import freed_memory_kept
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import dump_recipe
from velatura.recipe.values import with_values
from velatura.training.caching import Prepared, load_part
from velatura.training.ema import chosen
from velatura.training.export import export, whole_parts
from velatura.training.learner import Learner
from velatura.training.learning_rate import learning_rate, set_learning_rate
from velatura.training.live import Live, ends_epoch, in_force, learned
from velatura.training.setup import Setup
from velatura.training.showing import Showing
from velatura.training.states.identity import Identity
from velatura.training.states.resuming import Resume
from velatura.training.states.retention import prune_exports
from velatura.training.states.saver import Saver
from velatura.training.step_result import StepResult
from velatura.training.stop import StopRequest

FINISHING_BATCHES = 16  # micro-batches that an objective's last touches may look at


class Loop:
    """One run's loop. `step` counts finished optimizer steps."""

    def __init__(
        self,
        setup: Setup,
        identity: Identity,
        prepared: Prepared,
        events: Events,
        stop: StopRequest,
        live: Live | None = None,
    ) -> None:
        self.setup = setup
        self.live = live
        self.team = setup.team
        self.identity = identity
        self.prepared = prepared
        self.events = events
        self.stop = stop
        self.parts = prepared.parts
        self.step = 0
        self.saver = Saver(setup, events)
        self.exported: list[Path] = []
        self.exported_now = False  # after this step
        for name in setup.stays_loaded:
            load_part(setup, self.parts, name, events)
        self.learner = learner = Learner(setup, self.parts, events)
        self.showing = Showing(
            setup, prepared, learner.stepper, learner.holding, learner.painting, events, stop
        )

    def run(self) -> bool:
        """Train to the last step, or to a stop request (then False: what there is is saved, and the run can go on).

        Raises NumericError, StorageError and MemoryShortage, saying which state was saved last, and FolderLost.
        """
        try:
            with freed_memory_kept(self.setup.device):
                return self._run()
        except (NumericError, StorageError, MemoryShortage) as error:
            newest = self.saver.newest
            kept = f"The last state saved is {newest}" if newest else "No state was saved yet"
            kind = next(k for k in (NumericError, StorageError, MemoryShortage) if isinstance(error, k))
            then = "; once the disk takes what it refused, go on with --resume" * (kind is StorageError)
            raise kind(f"{error} {kept}{then}.") from error

    def _run(self) -> bool:
        steps = self.setup.recipe.training.steps
        if self.step < steps:  # the baseline, or what a stop or a kill left out
            if not self.exported_now and self._save_is_due(steps):
                self._export()
            self._show()
        forget_peak(self.setup.device)  # of text encoders and loading
        self.learner.guard.watch(self.learner.trainables.adapter, steps - self.step)
        started = time.perf_counter()
        self.events(PhaseStarted(phase="train", total=steps, unit="steps"))
        with self._loader(self.team.share) as loader:
            while self.step < steps and not self.team.any(self.stop.asked):
                self._one_step(loader, steps)
                self._reread()
                steps = self.setup.recipe.training.steps
                if self.step < steps:
                    self._save_where_due(steps)
                    self._save_where_asked()
                    self._show()
        self.events(PhaseFinished(phase="train", seconds=time.perf_counter() - started))
        if self.step < steps:
            self._save_state()
            self.events.notice(f"stopped after step {self.step}; go on with --resume")
            return False
        return self._finish()

    def _reread(self) -> None:
        """At the end of an epoch, what changed in the recipe's file counts from the next step on."""
        if self.live is None or not ends_epoch(self.setup.dataset.plan, self.step):
            return
        recipe = self.live.look(self.setup.recipe, self.step)
        if recipe is not self.setup.recipe:
            self._take_settings(recipe)

    def _take_settings(self, recipe: Recipe) -> None:
        self.setup = self.showing.setup = self.saver.setup = replace(self.setup, recipe=recipe)
        self.learner.stepper.clip = recipe.optimizer.clip
        self.identity = replace(self.identity, recipe={**self.identity.recipe, **learned(recipe)})
        if self.team.leads:
            write_bytes(self.setup.folder.recipe, dump_recipe(recipe).encode())

    def _one_step(self, loader: Loader, steps: int) -> None:
        if self.team.leads:
            self.setup.folder.lock().require_held()
        started = time.perf_counter()
        set_learning_rate(
            self.learner.optimizer, rate := learning_rate(self.setup.recipe.optimizer, self.step + 1, steps)
        )
        batches = loader.batches(self.step)
        result = self.learner.guard.step(batches, self.step)
        self.step += 1
        self.exported_now = False
        self.showing.begin_step()
        if self.learner.ema is not None:
            self.learner.ema.update(self.step, steps)
        if result is not None:
            self._tell(result, rate, time.perf_counter() - started, steps)
            forget_peak(self.setup.device)

    def _save_where_due(self, steps: int) -> None:
        if self._save_is_due(steps):
            self._save_state()
            self._export()

    def _save_is_due(self, steps: int) -> bool:
        every = self.setup.recipe.training.save_every or max(50, steps // 4)
        return self.step > 0 and self.step % every == 0

    def _save_where_asked(self) -> None:
        if self.team.any(self.stop.save_asked()):
            self._save_state()

    def _show(self) -> bool:
        """Validation and previews, as far as they are due; a state of this step remembers how far they came."""
        done = self.showing.show(self.step)
        self._note()
        return done

    def _note(self) -> None:
        """In the state of this step, if there is one: what need not be made again when a run goes on from it."""
        self.saver.note(
            self.step,
            exported=self.exported_now,
            validated=self.showing.validated,
            painted=self.showing.painted,
        )

    def _finish(self) -> bool:
        """All steps are made. Whether what is due after the last one could be shown."""
        self.learner.guard.require_learned(self.step)
        self._save_state()
        self._export(finish=True)
        if done := self._show():
            return done
        self.events.notice("stopped after the last step; --resume shows what is left out")
        return False

    def _loader(self, share: Share) -> Loader:
        return Loader(
            self.setup.dataset.plan,
            seed=self.setup.recipe.seed,
            caption_dropout=self.setup.caption_dropout,
            latents=self.prepared.latents,
            text=self.prepared.text,
            share=share,
        )

    def _last_touches(self) -> None:
        with self._loader(ALL) as loader, self.learner.stepper.precision():
            few = (batch for step in range(FINISHING_BATCHES) for batch in loader.batches(step))
            moved = (batch.to(self.setup.device, self.setup.dtype) for batch in few)
            self.setup.objective.finish(self.setup.family, self.parts, moved)

    def _export(self, *, finish: bool = False) -> None:
        """Write what a user takes away; `finish`: after the objective's last touches."""
        self.exported = []
        for weights in chosen(ema.saved if (ema := self.setup.recipe.ema) else "raw"):
            with self.learner.holding(weights):
                if finish:
                    self._last_touches()
                parts = whole_parts(self.setup, self.parts)
                if self.team.leads:
                    self.exported += export(self.setup, parts, self.learner.trainables, self.step, weights)
        for path in self.exported:
            self.events(
                FileSaved(step=self.step, what="model" if path.is_dir() else "adapter", path=str(path))
            )
        if self.team.leads:
            prune_exports(self.setup, self.step, self.events)
        self.exported_now = True
        self._note()
        self.team.wait()

    def _save_state(self) -> None:
        if self.saver.step != self.step:
            self.saver.save(
                self.learner.state(
                    self.step,
                    self.identity,
                    exported=self.exported_now,
                    validated=self.showing.validated,
                    painted=self.showing.painted,
                )
            )

    def resume(self, how: Resume) -> None:
        """Take over the state to go on from, if there is one."""
        state = how.load(self.setup, self.identity, self.events)
        if state is None:
            return
        if self.live is not None:
            kept = in_force(state.identity.recipe, state.step)
            self._take_settings(with_values(self.setup.recipe, kept))
        self.learner.take(state, self.identity)
        self.step = state.step
        self.saver.found(state.step)
        self.exported_now = state.exported
        self.showing.validated, self.showing.painted = state.validated, state.painted
        if self.step > (steps := self.setup.recipe.training.steps):
            self.events.warn(f"training.steps = {steps}: more are made already, and they stay")

    def _tell(self, result: StepResult, rate: float, seconds: float, steps: int) -> None:
        self.events(
            StepFinished(
                step=self.step,
                steps=steps,
                loss=result.loss,
                grad_norm=result.grad_norm,
                learning_rate=rate,
                seconds=seconds,
                images=result.images,
                memory=memory_used(self.setup.device),
                skipped=self.learner.guard.skipped,
                terms=result.terms,
            )
        )
