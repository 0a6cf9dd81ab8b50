"""A run's folder: where everything is, and the lock that keeps a second run out."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

from velatura.errors import RecipeError, StorageError

WRITING_SECONDS = 5.0  # more than it takes to write a line


class RunFolder:
    """The layout that docs/guides/training.md shows."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.root / "recipe.toml"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.root / "events.jsonl"

    @property
    def status(self) -> Path:
        """How the run is doing now, or how it ended."""
        return self.root / "status.json"

    @property
    def tensorboard(self) -> Path:
        """The folder of scalars that TensorBoard shows."""
        return self.root / "tensorboard"

    @property
    def data(self) -> Path:
        """The images that are trained on, each with its identity."""
        return self.root / "data.json"

    @property
    def report(self) -> Path:
        """The report that people open."""
        return self.root / "report.html"

    @property
    def states(self) -> Path:
        """Exact states, one folder per saved step."""
        return self.root / "state"

    def state(self, step: int) -> Path:
        """The state after a step."""
        return self.states / f"{step:06d}"

    @property
    def previews_page(self) -> Path:
        """All previews of the run side by side."""
        return self.root / "previews" / "index.html"

    def previews(self, step: int) -> Path:
        """The images painted after a step."""
        return self.root / "previews" / f"{step:06d}"

    def adapter(self, step: int, label: str) -> Path:
        """An adapter file; `label` sets further formats apart."""
        return self.root / "adapters" / f"{self.name}-{step:06d}{label}.safetensors"

    def model(self, step: int) -> Path:
        """A model folder, for runs that train whole parts."""
        return self.root / f"model-{step:06d}"

    def check(self, *, resume: bool) -> None:
        """Refuse what `create` and `lock` would refuse; nothing is written."""
        self._refuse_other_run(resume)
        existing = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            why = "may not be written to" if existing.is_dir() else "is a file"
            raise StorageError(
                f"cannot write in {self.root}: {existing} {why}. Choose another output.folder."
            )
        self.lock().refuse_running()

    def create(self, *, resume: bool) -> None:
        """Make the folder. A folder that already holds a run is refused unless the run is to be resumed."""
        self._refuse_other_run(resume)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / ".write-test"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StorageError(
                f"cannot write in {self.root}: {error.strerror}. Choose another output.folder."
            ) from None

    def _refuse_other_run(self, resume: bool) -> None:
        if self.recipe.exists() and not resume:
            raise RecipeError(
                f"the folder {self.root} already holds a run. Go on with it: --resume. "
                "Or start another: change `name`, or remove the folder."
            )

    def lock(self) -> RunLock:
        """Hold this while the run is on."""
        return RunLock(self.root / ".lock")


class RunLock:
    """A file that holds the owner's process id; a lock whose owner is gone is taken over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> RunLock:
        try:
            self._take()
        except FileExistsError:
            self.refuse_running()
            self.path.unlink(missing_ok=True)
            self._take()
        except OSError as error:
            self.path.unlink(missing_ok=True)
            raise StorageError(
                f"cannot write {self.path}: {error.strerror}; make room on the disk."
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)

    def refuse_running(self) -> None:
        """Raise RecipeError while another run holds the lock."""
        owner = self._owner() if self.path.exists() else None
        if owner is not None:
            who = f"process {owner}" if owner else "another process"
            raise RecipeError(
                f"{who} is already running in {self.path.parent}; wait for it, or choose another name"
            )

    def _take(self) -> None:
        with open(self.path, "x") as file:
            file.write(f"{os.getpid()} {psutil.Process().create_time()}")

    def _owner(self) -> int | None:
        """The running owner's process id."""
        try:
            pid, started = self.path.read_text().split()
            return int(pid) if is_alive(int(pid), float(started)) else None
        except ValueError:
            return self._just_taken()
        except OSError:
            return None

    def _just_taken(self) -> int | None:
        """A lock that says nothing yet: its owner is about to write it, unless it was killed then."""
        with suppress(OSError):
            if time.time() - self.path.stat().st_mtime < WRITING_SECONDS:
                return 0
        return None


def is_alive(pid: int, started: float) -> bool:
    """Whether a process of this machine still runs; process ids are reused, so its start must match too.

    Raises ValueError or OverflowError for a number that is no process id.
    """
    try:
        return abs(psutil.Process(pid).create_time() - started) < 1
    except psutil.Error:
        return False
