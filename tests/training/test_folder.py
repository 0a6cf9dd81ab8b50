"""The run's folder, and whether a run may begin in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from velatura.errors import FolderLost, RecipeError, StorageError
from velatura.events import Event, StepFinished
from velatura.training.folder import RunFolder

from .conftest import Train


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "x", "x")
    made.create(resume=False)
    return made


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
    with folder.lock(), pytest.raises(RecipeError, match="is already running") as told:
        folder.create(resume=False)
    assert "--resume" not in str(told.value)  # nor to remove the folder of a run that is on
    folder.check(resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"cannot write in .*: {tmp_path / 'file'} is a file"):
        RunFolder(tmp_path / "file" / "x", "x").check(resume=False)


@pytest.mark.parametrize("name", ["state", "data", "adapters", "previews"])
def test_a_file_where_a_folder_will_be_is_told_first(folder: RunFolder, name: str) -> None:
    """Not when the first state is saved."""
    (folder.root / name).write_text("")
    with pytest.raises(StorageError, match=f"{name} is a file, and a run has a folder of this name"):
        folder.check(resume=False)


def test_a_folder_without_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match=f"{tmp_path} may not be written to. Choose another output.folder"):
        RunFolder(tmp_path / "x", "x").check(resume=False)


def test_what_a_kill_left_half_written_is_removed_by_the_run_that_goes_on(run: Train) -> None:
    folder = run(training={"steps": 1}).folder
    half = [
        folder / "adapters" / ".tiny-000001.safetensors.b4f810e13d03474e.partial",
        folder / "model-000001" / "transformer" / ".x.safetensors.b4f810e13d03474e.partial",
        folder / "previews" / "000001" / ".00.png.b4f810e13d03474e.partial",
    ]
    for path in half:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    mine = folder / "notes.partial"
    mine.write_text("not of the run")
    run(training={"steps": 2}, resume=True)
    assert [path for path in half if path.exists()] == []
    assert mine.exists()


def take_over(folder: Path) -> None:
    """As a run on another machine does that has not heard of this one."""
    (folder / ".lock").write_text("7 1.0 elsewhere")


GONE, TAKEN = "was removed or renamed while the run was on", "process 7 on elsewhere took .* over"


@pytest.mark.parametrize(
    ("lose", "after", "message"),
    [
        (shutil.rmtree, 2, GONE),
        (lambda folder: folder.rename(folder.with_name("away")), 3, GONE),
        (take_over, 2, TAKEN),
        (take_over, 3, TAKEN),
    ],
    ids=["removed", "renamed before a save", "taken over", "taken over before a save"],
)
def test_a_folder_that_is_lost_ends_the_run_and_nothing_more_is_written(
    run: Train, tmp_path: Path, lose: Callable[[Path], object], after: int, message: str
) -> None:
    folder = tmp_path / "runs" / "tiny"
    left: list[Path] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == after:
            lose(folder)
            left.extend(tmp_path.glob("runs/**/*"))

    with pytest.raises(FolderLost, match=message):
        run(training={"steps": 4, "save_every": 3}, watch=watch)
    assert sorted(tmp_path.glob("runs/**/*")) == sorted(left)
