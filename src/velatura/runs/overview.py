"""A run at a glance: how it is, how far it came, how much room it takes. No log is read whole for that."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from velatura.errors import RecipeError
from velatura.events import StepFinished
from velatura.training.folder import RunFolder
from velatura.training.lock import SILENT, is_alive
from velatura.training.reporting.event_log import losses, read_log
from velatura.training.reporting.heartbeat import Status, read_status

TAIL = 2**16  # bytes of a log that are looked at where there is no status.json
MEANT = 50  # steps whose mean is shown as the loss, as in the progress line

# dead: the process is gone and did not say why; silent: on another machine, not heard of for ten minutes;
# unknown: there is no status.json that can be read
State = Literal["running", "finished", "stopped", "failed", "dead", "silent", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """One line of `velatura runs list`. What the folder does not tell is None."""

    name: str
    folder: str
    state: State
    message: str  # why it failed
    phase: str
    step: int | None
    steps: int | None
    loss: float | None
    images_per_second: float | None
    seconds_left: float | None
    updated: float | None  # seconds since 1970
    size: int  # bytes of all its files


def overview(root: Path) -> Overview:
    """What is known of the run in a folder."""
    folder = RunFolder(root, root.name)
    status = read_status(folder.status)
    state = state_of(status, touched=_touched(folder.status))
    running = status if state == "running" else None
    step, steps, loss = _progress(folder, status)
    return Overview(
        name=root.resolve().name,
        folder=str(root),
        state=state,
        message=status.message if status else "",
        phase=running.phase if running else "",
        step=step,
        steps=steps,
        loss=loss,
        images_per_second=running.images_per_second if running else None,
        seconds_left=running.seconds_left if running else None,
        updated=status.updated if status else _modified(folder),
        size=size_of(root),
    )


def _progress(folder: RunFolder, status: Status | None) -> tuple[int | None, int | None, float | None]:
    """Step, steps and loss as the run told them last, or else from the end of its log."""
    if status is not None and status.step is not None:
        return status.step, status.steps, status.loss
    made = [event for event in read_log(folder.events, tail=TAIL) if isinstance(event, StepFinished)]
    if not made:
        return None, None, None
    recent = [loss for _, loss in losses(made)][-MEANT:]
    return made[-1].step, made[-1].steps, sum(recent) / len(recent) if recent else None


def state_of(status: Status | None, touched: float | None = None) -> State:
    """How the run is, by what it said last and by whether its process is there.

    `touched`: when its status.json was, in seconds since 1970; a run does that while it has nothing to say.
    """
    if status is None:
        return "unknown"
    if status.state != "running":
        return status.state
    if status.host != socket.gethostname():
        heard = (status.updated, status.updated if touched is None else touched)
        return "running" if min(abs(time.time() - then) for then in heard) < SILENT else "silent"
    with suppress(ValueError, OverflowError):
        if is_alive(status.pid, status.process_started):
            return "running"
    return "dead"


def find_runs(parent: Path) -> tuple[list[Path], list[Path]]:
    """The runs in a folder, and its other folders. Raises RecipeError where there is no such folder."""
    if not parent.is_dir():
        raise RecipeError(
            f"there is no folder {parent.absolute()}; runs are written to `output.folder` of a recipe, which is 'runs' "
            "under the folder where `velatura train` was called"
        )
    folders = sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    runs = [path for path in folders if is_run(path)]
    if not runs and is_run(parent):
        raise RecipeError(f"{parent} is a run itself: `velatura runs show {parent}` shows it")
    return runs, [path for path in folders if path not in runs]


def find_run(name: str) -> Path:
    """The folder of a run that is given by its path or by its name under `runs`. Raises RecipeError."""
    for path in (Path(name), Path("runs") / name):
        if is_run(path):
            return path
    if Path(name).is_dir():
        raise RecipeError(f"{name} is no run: it has no recipe.toml, events.jsonl or status.json")
    there = ", ".join(path.name for path in find_runs(Path("runs"))[0]) if Path("runs").is_dir() else ""
    raise RecipeError(
        f"there is no run '{name}', neither as a folder nor under 'runs'"
        + (f", which has: {there}" if there else "")
    )


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    folder = RunFolder(path, path.name)
    return any(file.is_file() for file in (folder.recipe, folder.events, folder.status))


def size_of(root: Path) -> int:
    """Bytes of all files below; links are not followed, and what vanishes meanwhile does not count."""
    return sum(_sizes(root))


def _sizes(root: Path) -> Iterator[int]:
    for folder, _, names in os.walk(root):
        for name in names:
            with suppress(OSError):
                yield Path(folder, name).lstat().st_size


def _modified(folder: RunFolder) -> float | None:
    times = (_touched(path) for path in (folder.events, folder.recipe))
    return next((then for then in times if then is not None), None)


def _touched(path: Path) -> float | None:
    with suppress(OSError):
        return path.stat().st_mtime
    return None
