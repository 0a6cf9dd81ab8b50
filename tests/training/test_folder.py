"""The run's folder, and whether a run may begin in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from velatura.errors import RecipeError, StorageError
from velatura.training.folder import RunFolder


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


def test_a_folder_without_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match=f"{tmp_path} may not be written to. Choose another output.folder"):
        RunFolder(tmp_path / "x", "x").check(resume=False)
