"""A whole run, from a recipe to files: data, caches, model, loop, states, previews, report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from velatura.checkpoints.writing import write_bytes
from velatura.errors import MemoryShortage, StorageError, VelaturaError
from velatura.events import Event, Events, RunEnded
from velatura.families.registry import family_for, files_of
from velatura.objectives.registry import objective_for
from velatura.placement.device import choose_device, choose_dtype
from velatura.placement.shortage import is_shortage
from velatura.recipe.paths import with_absolute_paths
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import dump_recipe
from velatura.training.caching import prepare
from velatura.training.dataset import prepare_dataset
from velatura.training.dry_run import plan_lines
from velatura.training.folder import RunFolder
from velatura.training.identity import Identity, identity_of, require_same, write_items
from velatura.training.logs import Logs
from velatura.training.loop import Loop
from velatura.training.remarks import remarks
from velatura.training.report import write_report
from velatura.training.setup import Setup
from velatura.training.state import saved_identity
from velatura.training.stop import EXIT_STOPPED, Interrupted, listening


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: 0 finished, 75 stopped and saved."""

    exit_code: int
    step: int
    folder: Path | None
    files: tuple[Path, ...] = ()


def train(
    recipe: Recipe, base: Path, *, resume: bool = False, dry_run: bool = False, events: Events
) -> Outcome:
    """Train what the recipe says; paths in it start at `base`, results go to output.folder under the working folder.

    Raises RecipeError, DataError, ModelError, NumericError, StorageError or MemoryShortage, each with what to do.
    """
    recipe = with_absolute_paths(recipe, base)
    early: list[Event] = []  # what happens before the run's folder is there is logged when it is
    with _shortage_told():
        events.listeners.append(early.append)
        try:
            setup = settle(recipe, base, events)
            for line in remarks(setup):
                events.warn(line)
        finally:
            events.listeners.remove(early.append)
        identity = identity_of(setup)
        if resume and (saved := saved_identity(setup.folder.states)) is not None:
            require_same(saved, identity, setup.dataset, setup.folder.data)
        if dry_run:
            return _dry_run(setup, events, resume=resume)
        return _run(setup, identity, events, early, resume=resume)


@contextmanager
def _shortage_told() -> Iterator[None]:
    """Turn what Python, torch and its CPU allocator raise for lack of memory into an error for the user."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        where = "the device" if isinstance(error, torch.OutOfMemoryError) else "this machine"
        raise MemoryShortage(
            f"the memory of {where} is not enough ({str(error).splitlines()[0] if str(error) else 'MemoryError'}). "
            "What needs less: a smaller resolution or batch_size (with accumulate for larger steps), "
            'training.checkpoint_blocks = true, memory.weights = "fp8", a smaller rank.'
        ) from error


def settle(recipe: Recipe, base: Path, events: Events) -> Setup:
    """Find the model, read the data; `recipe` has absolute paths. Raises as `train` does."""
    family = family_for(recipe.model)
    files = files_of(recipe.model, base)
    info = family.inspect(files)
    dataset = prepare_dataset(recipe, base, info.size_step, events)
    folder = RunFolder(Path(recipe.output.folder) / recipe.name, recipe.name)
    setup = Setup(
        recipe=recipe,
        family=family,
        files=files,
        info=info,
        objective=objective_for(recipe),
        dataset=dataset,
        folder=folder,
        device=choose_device(recipe.training.device),
        dtype=choose_dtype(recipe.training.precision, choose_device(recipe.training.device)),
    )
    events.notice(dataset.report())
    return setup


def _run(
    setup: Setup, identity: Identity, events: Events, early: Sequence[Event], *, resume: bool
) -> Outcome:
    """Train, with everything logged in the run's folder."""
    folder = setup.folder
    folder.create(resume=resume)
    with folder.lock(), listening(events) as stop:
        logs = Logs(folder, events)
        for event in early:
            logs(event)
        events.listeners.append(logs)
        try:
            with _failure_told(events):
                with stop.preparing():
                    loop = Loop(setup, identity, prepare(setup, events), events, stop)
                if resume:
                    loop.resume()
                write_bytes(folder.recipe, dump_recipe(setup.recipe).encode())
                write_items(setup.dataset, folder.data)
                finished = loop.run()
            events(RunEnded(how="finished" if finished else "stopped"))
        except Interrupted:
            events.notice("stopped before a step was made; what was encoded is kept; go on with --resume")
            events(RunEnded(how="stopped"))
            return Outcome(exit_code=EXIT_STOPPED, step=0, folder=folder.root)
        finally:
            events.listeners.remove(logs)
            logs.close()
            _report(setup, events)
    return Outcome(
        exit_code=0 if finished else EXIT_STOPPED,
        step=loop.step,
        folder=folder.root,
        files=tuple(loop.exported),
    )


@contextmanager
def _failure_told(events: Events) -> Iterator[None]:
    """Let the listeners know why the block failed; being stopped is no failure."""
    try:
        with _shortage_told():
            yield
    except Interrupted:
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, VelaturaError) else f"{type(error).__name__}: {error}"
        events(RunEnded(how="failed", message=reason))
        raise


def _report(setup: Setup, events: Events) -> None:
    """The report never hides how a run ended: that it cannot be written is a warning."""
    try:
        write_report(setup, setup.folder)
    except (StorageError, OSError) as error:
        events.warn(f"report.html could not be written: {error}")


def _dry_run(setup: Setup, events: Events, *, resume: bool) -> Outcome:
    """Say what a run would do, and refuse what its set-up would refuse; no weights are read, nothing is written."""
    setup.folder.check(resume=resume)
    for line in plan_lines(setup, events):
        events.notice(line)
    return Outcome(exit_code=0, step=0, folder=None)
