"""The loop: steps, validation, previews, states, files. Everything it needs to go on is a step number and values."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from velatura.data.loader import Loader
from velatura.data.plan import tokens_of
from velatura.events import Events, FileSaved, PhaseFinished, PhaseStarted, StepFinished, ValidationFinished
from velatura.placement.compiling import compile_blocks, decide, training_flops
from velatura.placement.device import memory_used
from velatura.placement.recompute import recompute
from velatura.plural import counted
from velatura.training.caching import Prepared, load_part
from velatura.training.ema import Ema
from velatura.training.export import export
from velatura.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from velatura.training.previews import paint_previews
from velatura.training.previews_page import write_previews_page
from velatura.training.setup import Setup
from velatura.training.state import (
    RunState,
    check_recipe,
    load_latest,
    optimizer_tensors,
    save_state,
    set_optimizer_tensors,
)
from velatura.training.step import Stepper, StepResult
from velatura.training.stop import StopRequest
from velatura.training.trainables import make_trainables
from velatura.training.validation import validation_loss

OWN_AFFAIR = ("name", "previews", "output", "memory", "validation")  # do not change what is learned
FINISHING_BATCHES = 16  # micro-batches that an objective's last touches may look at


class Loop:
    """One run's loop. `step` counts finished optimizer steps."""

    def __init__(self, setup: Setup, prepared: Prepared, events: Events, stop: StopRequest) -> None:
        self.setup = setup
        self.prepared = prepared
        self.events = events
        self.stop = stop
        self.parts = prepared.parts
        self.step = 0
        self.skipped = 0
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
        self._place_blocks()

    def run(self) -> bool:
        """Train to the last step, or to a stop request (then False: the state is saved and the run can go on)."""
        steps = self.setup.recipe.training.steps
        if self.step == 0 and self.setup.recipe.previews.baseline:
            self._preview()
        started = time.perf_counter()
        self.events(PhaseStarted(phase="train", total=steps, unit="steps"))
        with self._loader() as loader:
            while self.step < steps and not self.stop.asked:
                self._one_step(loader, steps)
                if self.step < steps and not self.stop.asked:
                    self._between_steps()
        self.events(PhaseFinished(phase="train", seconds=time.perf_counter() - started))
        self._save_state()
        if self.step < steps:
            self.events.notice(f"stopped after step {self.step}; go on with --resume")
            return False
        self._finish()
        return True

    def _one_step(self, loader: Loader, steps: int) -> None:
        started = time.perf_counter()
        set_learning_rate(
            self.optimizer, rate := learning_rate(self.setup.recipe.optimizer, self.step + 1, steps)
        )
        batches = loader.batches(self.step)
        result = self.stepper(batches, self.setup.recipe.seed, self.step)
        self.step += 1
        if result.skipped:
            self.skipped += 1
        elif self.ema is not None:
            self.ema.update(self.step)
        self._tell(
            result, rate, sum(len(batch.names) for batch in batches), time.perf_counter() - started, steps
        )

    def _between_steps(self) -> None:
        recipe = self.setup.recipe
        steps = recipe.training.steps
        if self.step % (recipe.training.save_every or max(50, steps // 4)) == 0:
            self._save_state()
            self._export()
        if self.step % recipe.validation.every == 0:
            self._validate()
        if self.step % (recipe.previews.every or max(1, steps // 10)) == 0:
            self._preview()

    def _finish(self) -> None:
        with self._loader() as loader, self._shown():
            few = (batch for step in range(FINISHING_BATCHES) for batch in loader.batches(step))
            moved = (batch.to(self.setup.device, self.setup.dtype) for batch in few)
            with self.stepper.precision():
                self.setup.objective.finish(self.setup.family, self.parts, moved)
        self._export()
        self._validate()
        self._preview()

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

    def _validate(self) -> None:
        plan = self.setup.dataset.validation
        if plan is None:
            return
        with self._shown(), Loader(plan, latents=self.prepared.latents, text=self.prepared.text) as loader:
            batches = (batch for number in range(plan.steps) for batch in loader.batches(number))
            loss = validation_loss(self.stepper, batches, self.setup.recipe.validation.times)
        self.events(ValidationFinished(step=self.step, loss=loss))

    def _preview(self) -> None:
        if not self.prepared.previews:
            return
        with self._shown(), self.stepper.precision():
            paint_previews(
                self.prepared.previews,
                self.setup.family,
                self.parts,
                folder=self.setup.folder.previews(self.step),
                step=self.step,
                device=self.setup.device,
                dtype=self.setup.dtype,
                events=self.events,
                stopped=lambda: self.stop.asked,
            )
        write_previews_page(self.setup.folder)

    def _export(self) -> None:
        with self._shown():
            self.exported = export(self.setup, self.parts, self.trainables, self.step)
        for path in self.exported:
            self.events(
                FileSaved(step=self.step, what="model" if path.is_dir() else "adapter", path=str(path))
            )

    def _save_state(self) -> None:
        state = RunState(
            step=self.step,
            recipe_hash=run_identity(self.setup),
            values=self.trainables.values(),
            average=None if self.ema is None else self.ema.average,
            optimizer=optimizer_tensors(self.optimizer, self.trainables.parameters),
            scaler=self.stepper.scaler.state_dict(),
            skipped=self.skipped,
        )
        path = save_state(self.setup.folder.states, state, keep=self.setup.recipe.output.keep_states)
        self.events(FileSaved(step=self.step, what="state", path=str(path)))

    def resume(self) -> None:
        """Take over the newest whole state. Raises RecipeError when it is of another run."""
        state = load_latest(self.setup.folder.states, self.events)
        if state is None:
            self.events.notice("no saved state yet: starting at step 0")
            return
        check_recipe(state.recipe_hash, run_identity(self.setup))
        self.trainables.set_values(state.values)
        set_optimizer_tensors(self.optimizer, self.trainables.parameters, state.optimizer)
        if self.ema is not None and state.average is not None:
            self.ema.load(state.average)
        if state.scaler:
            self.stepper.scaler.load_state_dict(dict(state.scaler))
        self.step, self.skipped = state.step, state.skipped
        self.events.notice(f"going on after step {self.step}")

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


def run_identity(setup: Setup) -> str:
    """Hash of all that decides what is learned: recipe (without what may change on resume), data, model weights.

    Of the data counts what it came to, not the `[[data]]` tables: files may move.
    Keys at their defaults do not count, so that a recipe keeps its identity when later versions know more keys.
    """
    recipe = setup.recipe
    table = recipe.model_dump(mode="json", exclude={*OWN_AFFAIR, "data"}, exclude_defaults=True)
    for free in ("steps", "device", "save_every"):
        table.get("training", {}).pop(free, None)
    for place in ("model", "denoiser", "autoencoder", "text_encoders", "tokenizers"):
        table["model"].pop(place, None)  # files may move; what is in them is in the fingerprints
    facts = {
        "recipe": table,
        "kinds": [recipe.model.family, recipe.objective.kind],
        "memory": [recipe.memory.cache, recipe.memory.weights],
        "data": setup.dataset.fingerprint(),
        "model": dict(setup.info.fingerprints),
    }
    if recipe.memory.weights != "full":
        facts["weights"] = recipe.memory.weights
    if recipe.memory.cached_latents != "mean":
        facts["latents"] = recipe.memory.cached_latents
    if recipe.training.precision == "auto" and setup.dtype != torch.float32:
        facts["precision"] = str(setup.dtype)  # what this machine chose; another one may choose otherwise
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
