"""The lock of a run's folder: who is kept out, and who gets in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from velatura.errors import FolderLost, RecipeError, StorageError
from velatura.training import lock as locks
from velatura.training.lock import SILENT, WRITING_SECONDS, RunLock, is_alive, process_start

HOST = socket.gethostname()
GONE = f"4194301 1.0 {HOST}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def lock_at(path: Path) -> RunLock:
    return RunLock(path, path.with_name("status.json"))


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_second_run_is_kept_out_while_the_first_is_on(path: Path) -> None:
    with lock_at(path):
        message = f"process {os.getpid()} is already running in .*wait for it.* remove {path}"
        with pytest.raises(RecipeError, match=message), lock_at(path):
            pass
        assert path.exists()  # the refused one has not removed it
    with lock_at(path):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_live_process_holds_its_lock(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        path.write_text(f"{other.pid} {process_start(other.pid)} {HOST}")
        with pytest.raises(RecipeError, match=f"process {other.pid} is already running"), lock_at(path):
            pass
        other.kill()
    with lock_at(path):  # killed: taken over
        pass


@pytest.mark.parametrize("started_before", [1000.0, None])
def test_a_stale_lock_is_taken_over(path: Path, started_before: float | None) -> None:
    """Its process is gone, or its number is used again by a younger one."""
    content = GONE
    if started_before is not None:
        content = f"{os.getpid()} {process_start() - started_before} {HOST}"
    path.write_text(content)
    with lock_at(path):
        assert path.read_text().startswith(f"{os.getpid()} ")
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", ["", "12", "garbage in here", f"-1 1.0 {HOST}"])
def test_a_lock_that_says_nothing_is_respected_for_some_seconds(path: Path, content: str) -> None:
    """Its owner may be just about to write it; once it is old, the owner was killed in between."""
    path.write_text(content)
    with pytest.raises(RecipeError, match="another process is already running"), lock_at(path):
        pass
    for seconds in (WRITING_SECONDS + 1, -3600):  # or of a time that the clock was put back behind
        path.write_text(content)
        age(path, seconds)
        with lock_at(path):
            pass


def test_another_machine_is_believed_while_it_is_heard_of(path: Path) -> None:
    path.write_text("7 1.0 elsewhere")
    alive = path.with_name("status.json")
    alive.write_text("{}")
    age(path, SILENT + 1)
    with pytest.raises(RecipeError, match="process 7 on elsewhere is already running"), lock_at(path):
        pass
    age(alive, SILENT + 1)
    with lock_at(path):
        pass


def test_a_clock_that_is_set_takes_no_lock_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil works out the time of day at which a process began from the clock as it stands now."""
    if not psutil.LINUX:
        pytest.skip("other systems note the time of day itself")
    started, boot = process_start(), psutil.boot_time()
    created = psutil.Process().create_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot - 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: created - 3600)
    assert is_alive(os.getpid(), started)


def test_two_that_find_a_stale_lock_do_not_both_get_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes in between, when the first has found the lock stale."""
    path.write_text(GONE)
    real = locks._running

    def late(which: Path, alive: Path) -> str | None:
        monkeypatch.setattr(locks, "_running", real)
        found = real(which, alive)
        lock_at(path).__enter__()
        return found

    monkeypatch.setattr(locks, "_running", late)
    with pytest.raises(RecipeError, match=f"process {os.getpid()} is already running"), lock_at(path):
        pass
    assert path.read_text().startswith(f"{os.getpid()} ")
    assert list(path.parent.iterdir()) == [path]


def test_who_finds_another_at_it_waits(path: Path) -> None:
    path.write_text(GONE)
    claim = path.with_name(".lock-claim")
    claim.write_text("")  # being written
    with pytest.raises(RecipeError, match="another process begins in .* at this moment"), lock_at(path):
        pass
    claim.write_text(GONE)  # killed in between
    with lock_at(path):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_lock_of_another_is_not_removed(path: Path) -> None:
    with lock_at(path):
        path.write_text("7 1.0 elsewhere")
    assert path.exists()


def test_a_lock_that_is_lost_is_noticed(path: Path) -> None:
    folder = path.parent / "run"
    folder.mkdir()
    lock = lock_at(folder / ".lock")
    with lock:
        lock.require_held()
        for taken_by, message in (
            (f"7 1.0 {HOST}", f"process 7 on {HOST} took {folder} over"),
            (f"{os.getpid()} 1.0 elsewhere", f"process {os.getpid()} on elsewhere took {folder} over"),
        ):
            lock.path.write_text(taken_by)
            with pytest.raises(FolderLost, match=message):
                lock.require_held()
        lock.path.write_text("")  # unreadable for a moment
        lock.require_held()
        folder.rename(path.parent / "away")
        with pytest.raises(FolderLost, match=f"{folder} was removed or renamed .* nothing more is written"):
            lock.require_held()


def test_a_folder_that_refuses_is_told(path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write .*: No such file"), lock_at(path / "none" / ".lock"):
        pass
    path.mkdir()
    with pytest.raises(StorageError, match="cannot write .*: Is a directory"), lock_at(path):
        pass
