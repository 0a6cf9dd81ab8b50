"""A whole run, from a recipe to files: data, caches, model, loop, states, previews, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from velatura.checkpoints.writing import write_atomically
from velatura.errors import StorageError
from velatura.events import Event, Events
from velatura.families.registry import family_for, files_of
from velatura.objectives.registry import objective_for
from velatura.placement.device import choose_device, choose_dtype
from velatura.recipe.paths import with_absolute_paths
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import dump_recipe
from velatura.training.caching import prepare
from velatura.training.dataset import prepare_dataset
from velatura.training.dry_run import plan_lines
from velatura.training.folder import RunFolder
from velatura.training.logs import JsonLog, TensorBoardLog
from velatura.training.loop import Loop, run_identity
from velatura.training.report import write_report
from velatura.training.setup import Setup
from velatura.training.state import check_recipe, saved_recipe
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

    Raises RecipeError, DataError, ModelError, NumericError or StorageError, each with what to do.
    """
    recipe = with_absolute_paths(recipe, base)
    early: list[Event] = []  # what happens before the run's folder is there is logged when it is
    events.listeners.append(early.append)
    try:
        setup = settle(recipe, base, events)
    finally:
        events.listeners.remove(early.append)
    if dry_run:
        return _dry_run(setup, events, resume=resume)
    return _run(setup, events, early, resume=resume)


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


def _run(setup: Setup, events: Events, early: Sequence[Event], *, resume: bool) -> Outcome:
    """Train, with everything logged in the run's folder."""
    folder = setup.folder
    folder.create(resume=resume)
    with folder.lock(), listening() as stop:
        log, board = JsonLog(folder.events), TensorBoardLog(folder.root / "tensorboard")
        for event in early:
            log(event)
        events.listeners += [log, board]
        try:
            with stop.preparing():
                loop = Loop(setup, prepare(setup, events), events, stop)
            if resume:
                loop.resume()
            recipe_text = dump_recipe(setup.recipe).encode()
            write_atomically(folder.recipe, lambda file: file.write(recipe_text), size=len(recipe_text))
            finished = loop.run()
        except Interrupted:
            events.notice("stopped before a step was made; what was encoded is kept; go on with --resume")
            return Outcome(exit_code=EXIT_STOPPED, step=0, folder=folder.root)
        finally:
            for listener in (log, board):
                events.listeners.remove(listener)
                listener.close()
            _report(setup, events)
    return Outcome(
        exit_code=0 if finished else EXIT_STOPPED,
        step=loop.step,
        folder=folder.root,
        files=tuple(loop.exported),
    )


def _report(setup: Setup, events: Events) -> None:
    """The report never hides how a run ended: that it cannot be written is a warning."""
    try:
        write_report(setup, setup.folder)
    except (StorageError, OSError) as error:
        events.warn(f"report.html could not be written: {error}")


def _dry_run(setup: Setup, events: Events, *, resume: bool) -> Outcome:
    """Say what a run would do, and refuse what its set-up would refuse; no weights are read, nothing is written."""
    setup.folder.check(resume=resume)
    if resume and (saved := saved_recipe(setup.folder.states)) is not None:
        check_recipe(saved, run_identity(setup))
    for line in plan_lines(setup, events):
        events.notice(line)
    return Outcome(exit_code=0, step=0, folder=None)
