"""The lock of a run's folder: a second run is kept out while the first is on, and let in when it is gone."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from velatura.errors import FolderLost, RecipeError, StorageError

WRITING_SECONDS = 5.0  # more than it takes to write a line
SILENT = 600.0  # seconds without a word after which a run on another machine is taken for gone


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that wrote a lock."""

    pid: int
    started: float
    host: str

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        return cls(pid=os.getpid(), started=process_start(), host=socket.gethostname())

    @property
    def is_me(self) -> bool:
        """Whether it is this process."""
        return (self.pid, self.host) == (os.getpid(), socket.gethostname())

    @classmethod
    def read(cls, path: Path) -> Owner:
        """Raises OSError, or ValueError for a file that says something else."""
        pid, started, host = path.read_text("utf-8").split()
        return cls(pid=int(pid), started=float(started), host=host)

    def write(self, path: Path) -> None:
        """Into a new file, or none at all. Raises OSError."""
        with open(path, "x", encoding="utf-8") as file:
            try:
                file.write(f"{self.pid} {self.started} {self.host}")
                file.flush()
            except OSError:
                path.unlink()
                raise


class RunLock:
    """A file that says who holds it; a lock whose owner is gone is taken over.

    Another machine's process cannot be looked for: it counts as gone when neither the lock nor `alive`, a file that
    the run keeps up to date, has changed for ten minutes.
    """

    def __init__(self, path: Path, alive: Path) -> None:
        self.path = path
        self.alive = alive

    def __enter__(self) -> RunLock:
        """Take the lock. Raises RecipeError while another run holds it, StorageError."""
        with _refusals_told(self.path):
            try:
                Owner.me().write(self.path)
            except FileExistsError:
                self.refuse_running()
                self._replace_stale()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, ValueError):
            if Owner.read(self.path).is_me:
                self.path.unlink()

    def require_held(self) -> None:
        """Raise FolderLost where someone took away the lock that this process holds, or the folder around it.

        A disk that does not answer for a moment takes nothing away.
        """
        folder = self.path.parent
        try:
            owner = Owner.read(self.path)
        except FileNotFoundError:
            raise FolderLost(
                f"{folder} was removed or renamed while the run was on, or its {self.path.name} was; nothing more is "
                "written. Put it back with its states, and go on with --resume, or start the run again."
            ) from None
        except (OSError, ValueError):
            return
        if not owner.is_me:
            raise FolderLost(
                f"process {owner.pid} on {owner.host} took {folder} over while this run was on; nothing more is "
                "written. Let one of them go on."
            )

    def refuse_running(self) -> None:
        """Raise RecipeError while another run holds the lock."""
        who = _running(self.path, self.alive)
        if who is not None:
            raise RecipeError(
                f"{who} is already running in {self.path.parent}; wait for it, or choose another name. "
                f"If it is gone for certain, remove {self.path}"
            )

    def _replace_stale(self) -> None:
        """Of several processes that find a stale lock, the one that can write the claim replaces it."""
        claim = self.path.with_name(f"{self.path.name}-claim")
        if claim.exists() and _running(claim, claim) is None:
            claim.unlink(missing_ok=True)
        Owner.me().write(claim)
        try:
            self.refuse_running()  # who claimed it a moment before
            if self.path.exists():
                os.replace(claim, self.path)
            else:
                Owner.me().write(self.path)
        finally:
            claim.unlink(missing_ok=True)


def process_start(pid: int | None = None) -> float:
    """When a process (default: this one) began, in seconds that do not move when someone sets the clock.

    Raises psutil.Error. On Linux they count from the boot: the time of day that psutil gives is worked out from there.
    """
    created = psutil.Process(pid).create_time()
    return created - psutil.boot_time() if psutil.LINUX else created


def is_alive(pid: int, started: float) -> bool:
    """Whether a process of this machine still runs; process ids are reused, so its start must match too.

    One that ended and whose parent has not asked how is no longer there. Raises ValueError or OverflowError for a
    number that is no process id.
    """
    try:
        ended = psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        return not ended and abs(process_start(pid) - started) < 1
    except psutil.Error:
        return False


def _running(path: Path, alive: Path) -> str | None:
    """The owner of a lock in words, while there is one."""
    try:
        owner = Owner.read(path)
        if owner.host != socket.gethostname():
            there = min(_age(path), _age(alive)) < SILENT
            return f"process {owner.pid} on {owner.host}" if there else None
        return f"process {owner.pid}" if is_alive(owner.pid, owner.started) else None
    except (ValueError, OverflowError):  # an owner that is about to write it, unless it was killed then
        return "another process" if _age(path) < WRITING_SECONDS else None
    except FileNotFoundError:
        return None


def _age(path: Path) -> float:
    """Seconds since a file was written, by clocks that may differ."""
    try:
        return abs(time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return float("inf")


@contextmanager
def _refusals_told(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise RecipeError(f"another process begins in {path.parent} at this moment; wait for it") from None
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; make room on the disk."
        ) from None
