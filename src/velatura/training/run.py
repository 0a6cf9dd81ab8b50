"""A whole run, from a recipe to files: data, caches, model, loop, states, previews, report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from velatura.checkpoints.writing import write_bytes
from velatura.errors import FolderLost, MemoryShortage, RecipeError, StorageError, reason
from velatura.events import Event, Events, RunEnded
from velatura.placement.shortage import first_line, is_shortage
from velatura.recipe.paths import with_absolute_paths
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import dump_recipe
from velatura.training.caching import prepare
from velatura.training.distribution.joining import failing_together, joined
from velatura.training.distribution.launch import Launch, launched
from velatura.training.distribution.restarting import stopped_before
from velatura.training.dry_run import plan_lines
from velatura.training.health.memory_account import remedies
from velatura.training.live import Live, Reread
from velatura.training.loop import Loop
from velatura.training.planned import Planner, as_planned, with_plan
from velatura.training.reporting.logs import Logs
from velatura.training.reporting.remarks import remarks
from velatura.training.reporting.report import write_report
from velatura.training.reporting.wandb_log import WandbLog
from velatura.training.settling import folder_of, settle
from velatura.training.setup import Setup
from velatura.training.starting import identity_of_start, without_start
from velatura.training.states.changes import write_items
from velatura.training.states.identity import Identity, identity_of
from velatura.training.states.resuming import Resume
from velatura.training.states.saved_states import Saved, saved_before
from velatura.training.stop import EXIT_STOPPED, Interrupted, StopRequest, listening


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: 0 finished, 75 stopped and saved."""

    exit_code: int
    step: int
    folder: Path | None
    files: tuple[Path, ...] = ()


def train(
    recipe: Recipe,
    base: Path,
    *,
    resume: Resume | None = None,
    dry_run: bool = False,
    events: Events,
    reread: Reread | None = None,
    planner: Planner | None = None,
) -> Outcome:
    """Train what the recipe says; paths in it start at `base`, results go to output.folder under the working folder.

    `reread` gives the recipe as its file is now, for training.live; `planner` settles what memory.budget asks for.
    Raises RecipeError, BudgetError, DataError, ModelError, NumericError, StorageError or MemoryShortage, each with what
    to do.
    """
    recipe = with_absolute_paths(recipe, base)
    if resume is None and recipe.training.resume == "latest":
        resume = Resume()
    early: list[Event] = []  # what happens before the run's folder is there is logged when it is
    launch = Launch() if dry_run else launched()
    folder = folder_of(recipe)
    with (
        listening(events, launch.echo) as stop,
        joined(launch, recipe.training.device) as team,
        _shortage_told(recipe),
    ):
        # within the team, since torchrun ends all processes when the first one ends
        if stopped := stopped_before(launch, folder.status):
            events.notice("this run was stopped on request, and is not begun again; go on with --resume")
            return Outcome(exit_code=EXIT_STOPPED, step=stopped.step or 0, folder=folder.root)
        events.listeners.append(early.append)
        try:
            with stop.preparing():
                with team.in_turn():
                    if team.leads:  # a large dataset takes minutes to read
                        folder.check(resume=resume is not None)
                    saved = saved_before(folder.states, resume.step) if resume else None
                    start: dict[str, str] = {}
                    if saved is not None:
                        recipe, start = without_start(recipe, saved.identity, folder)
                    setup = settle(recipe, base, events, team)
                setup = with_plan(setup, planner, events, resumed=resume is not None)
                for line in remarks(setup):
                    events.warn(line)
                identity = identity_of(setup, start or identity_of_start(recipe))
                if resume is not None:
                    resume.check(saved, setup, identity)
                if dry_run:
                    return _dry_run(setup, events, resume, saved)
        finally:
            events.listeners.remove(early.append)
        live = _live(setup, reread, base, events)
        begun = saved.step if saved else 0
        return _run(setup, identity, events, early, stop, resume, live, begun)


@contextmanager
def _shortage_told(recipe: Recipe, *, sharded: bool = False) -> Iterator[None]:
    """Turn what Python, torch and its CPU allocator raise for lack of memory into an error for the user."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        where = "the device" if isinstance(error, torch.OutOfMemoryError) else "this machine"
        raise MemoryShortage(
            f"the memory of {where} is not enough ({first_line(error)}). What needs less, the most helpful first: "
            f"{'; '.join(remedies(recipe, recipe.training.batch_size, sharded=sharded))}."
        ) from error


def _live(setup: Setup, reread: Reread | None, base: Path, events: Events) -> Live | None:
    if not setup.recipe.training.live:
        return None
    if reread is None:
        raise RecipeError(
            "training.live = true: this recipe has no file that could be read again; pass `reread`"
        )

    def again() -> Recipe:
        return as_planned(with_absolute_paths(reread(), base), setup.recipe)

    return Live(reread=again, team=setup.team, events=events)


def _run(
    setup: Setup,
    identity: Identity,
    events: Events,
    early: Sequence[Event],
    stop: StopRequest,
    resume: Resume | None,
    live: Live | None,
    begun: int,
) -> Outcome:
    """Train, with everything logged in the run's folder. `begun`: so many steps are made already."""
    folder, leads = setup.folder, setup.team.leads
    with _kept(setup, events, early, stop, resume=resume is not None) if leads else nullcontext():
        try:
            with (
                _failure_told(setup, events),
                failing_together(setup.team),
                _shortage_told(setup.recipe, sharded=setup.sharded),
            ):
                with stop.preparing():
                    setup.team.wait()  # the leader has the folder
                    loop = Loop(setup, identity, prepare(setup, events), events, stop, live)
                if resume is not None:
                    loop.resume(resume)
                if leads:
                    write_bytes(folder.recipe, dump_recipe(loop.setup.recipe).encode())
                    write_items(setup.dataset, folder.data(identity.data))
                finished = loop.run()
            events(RunEnded(how="finished" if finished else "stopped"))
        except Interrupted:
            before = f"another step was made after step {begun}" if begun else "a step was made"
            events.notice(f"stopped before {before}; what was encoded is kept; go on with --resume")
            events(RunEnded(how="stopped"))
            return Outcome(exit_code=EXIT_STOPPED, step=begun, folder=folder.root)
    return Outcome(
        exit_code=0 if finished else EXIT_STOPPED,
        step=loop.step,
        folder=folder.root,
        files=tuple(loop.exported),
    )


@contextmanager
def _kept(
    setup: Setup, events: Events, early: Sequence[Event], stop: StopRequest, *, resume: bool
) -> Iterator[None]:
    """The run's folder, held: everything that goes on is logged in it, and at the end there is a report."""
    folder = setup.folder
    folder.create(resume=resume)
    with folder.lock() as lock:
        folder.remove_partial()
        stop.watch(folder)
        project = setup.recipe.output.wandb
        more = {folder.root / "wandb": WandbLog(project, setup.recipe, folder)} if project else None
        logs = Logs(folder, events, more)
        for event in early:
            logs(event)
        events.listeners.append(logs)
        try:
            yield
        finally:
            events.listeners.remove(logs)
            logs.close()
            with suppress(FolderLost):  # then there is nowhere to write it
                lock.require_held()
                _report(setup, events)


@contextmanager
def _failure_told(setup: Setup, events: Events) -> Iterator[None]:
    """Let the listeners know why the block failed; being stopped is no failure, and a folder that is lost no place."""
    try:
        yield
    except (Interrupted, FolderLost):
        raise
    except BaseException as error:
        events(RunEnded(how="failed", message=reason(error)))
        raise


def _report(setup: Setup, events: Events) -> None:
    """The report never hides how a run ended: that it cannot be written is a warning."""
    try:
        write_report(setup, setup.folder)
        events.notice(f"report: {setup.folder.report}")
    except (StorageError, OSError) as error:
        events.warn(f"report.html could not be written: {error}")


def _dry_run(setup: Setup, events: Events, resume: Resume | None, saved: Saved | None) -> Outcome:
    """Say what a run would do, and refuse what its set-up would refuse; no weights are read, nothing is written."""
    for line in plan_lines(setup, events):
        events.notice(line)
    for line in saved.skipped if saved else ():
        events.warn(line)
    if resume is not None:
        begins = f"after step {saved.step}" if saved else "no saved state yet: it would start at step 0"
        events.notice(f"resume: {begins}")
    return Outcome(exit_code=0, step=0, folder=None)
