"""The run's folder and its lock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from velatura.errors import RecipeError, StorageError
from velatura.training.folder import WRITING_SECONDS, RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "x", "x")
    made.create(resume=False)
    return made


def test_a_second_run_is_kept_out_while_the_first_is_on(folder: RunFolder) -> None:
    with folder.lock():
        message = f"process {os.getpid()} is already running in .*wait for it"
        with pytest.raises(RecipeError, match=message), folder.lock():
            pass
        assert (folder.root / ".lock").exists()  # the refused one has not removed it
    with folder.lock():
        pass
    assert not (folder.root / ".lock").exists()


def test_a_live_process_holds_its_lock(folder: RunFolder) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        started = psutil.Process(other.pid).create_time()
        (folder.root / ".lock").write_text(f"{other.pid} {started}")
        with pytest.raises(RecipeError, match=f"process {other.pid} is already running"), folder.lock():
            pass
        other.kill()
    with folder.lock():  # killed: taken over
        pass


@pytest.mark.parametrize("started_before", [1000.0, None])
def test_a_stale_lock_is_taken_over(folder: RunFolder, started_before: float | None) -> None:
    """Its process is gone, or its number is used again by a younger one."""
    content = "4194301 1.0"
    if started_before is not None:
        content = f"{os.getpid()} {psutil.Process().create_time() - started_before}"
    (folder.root / ".lock").write_text(content)
    with folder.lock():
        assert (folder.root / ".lock").read_text().startswith(f"{os.getpid()} ")


@pytest.mark.parametrize("content", ["", "12", "garbage here", "-1 1.0"])
def test_a_lock_that_says_nothing_is_respected_for_some_seconds(folder: RunFolder, content: str) -> None:
    """Its owner may be just about to write it; once it is old, the owner was killed in between."""
    lock = folder.root / ".lock"
    lock.write_text(content)
    with pytest.raises(RecipeError, match="another process is already running"), folder.lock():
        pass
    old = lock.stat().st_mtime - WRITING_SECONDS - 1
    os.utime(lock, (old, old))
    with folder.lock():
        pass


def test_a_folder_with_a_run_is_not_overwritten(folder: RunFolder) -> None:
    folder.create(resume=False)  # empty so far
    folder.recipe.write_text("")
    with pytest.raises(RecipeError, match="already holds a run. Go on with it: --resume"):
        folder.create(resume=False)
    folder.create(resume=True)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write in .*Choose another output.folder"):
        RunFolder(tmp_path / "file" / "x", "x").create(resume=False)


def test_what_would_be_refused_is_told_without_writing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "deep" / "x", "x")
    folder.check(resume=False)
    assert list(tmp_path.iterdir()) == []
    folder.create(resume=False)
    folder.check(resume=False)
    with folder.lock(), pytest.raises(RecipeError, match=f"process {os.getpid()} is already running"):
        folder.check(resume=False)
    folder.recipe.write_text("")
    with pytest.raises(RecipeError, match="already holds a run"):
        folder.check(resume=False)
    folder.check(resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"cannot write in .*: {tmp_path / 'file'} is a file"):
        RunFolder(tmp_path / "file" / "x", "x").check(resume=False)


def test_a_folder_without_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match=f"{tmp_path} may not be written to. Choose another output.folder"):
        RunFolder(tmp_path / "x", "x").check(resume=False)
