"""Folders that may not be written to: before a run, and in the middle of one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from velatura.recipe.toml import dump_recipe

from ..tiny import recipe, write_pictures

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0  # may write everywhere, unless the right is dropped
COMMON = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if ROOT else []
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX"),
    pytest.mark.skipif(
        ROOT and not shutil.which("setpriv"), reason="root without setpriv may write everywhere"
    ),
]
COMMAND = [*COMMON, sys.executable, "-m", "velatura"]
LOSING = """
import os, sys
from velatura.cli.app import main
from velatura.events import Events, FileSaved
real = Events.__call__
def told(self, event):
    real(self, event)
    if isinstance(event, FileSaved) and event.what == "state" and event.step == 2:
        os.chmod(os.path.dirname(event.path), 0o500)
Events.__call__ = told
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "photos", [(64, 64)] * 4)


def write_recipe(tmp_path: Path, model: Path, output: Path) -> str:
    sections: dict[str, Any] = {
        "training": {"steps": 4, "save_every": 2},
        "output": {"folder": str(output)},
        "memory": {"cache_folder": str(tmp_path / "cache")},
    }
    path = tmp_path / f"{output.name}.toml"
    path.write_text(dump_recipe(recipe(tmp_path, model, **sections)))
    return str(path)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("folder", ["runs", "cache"])
def test_a_folder_that_is_read_only(tmp_path: Path, photos: Path, tiny_model: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(mode=0o500)
    done = run(*COMMAND, "train", write_recipe(tmp_path, tiny_model, tmp_path / "runs"))
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert str(tmp_path / folder) in said
    assert ("hoose another" in said) or ("give another" in said)


def test_a_right_that_is_lost_in_the_middle_of_a_run(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    wanted, straight = (write_recipe(tmp_path, tiny_model, tmp_path / name) for name in ("runs", "straight"))
    lost = run(*COMMON, sys.executable, "-c", LOSING, "train", wanted)
    states = tmp_path / "runs" / "tiny" / "state"
    assert lost.returncode == 1
    assert "Permission denied" in lost.stderr
    assert f"The last state saved is {states / '000002'}; once the disk takes what it refused" in lost.stderr
    states.chmod(0o700)
    again = run(*COMMAND, "train", wanted, "--resume")
    assert again.returncode == 0, again.stderr
    assert "going on after step 2" in again.stdout
    assert run(*COMMAND, "train", straight).returncode == 0
    files = [tmp_path / name / "tiny/adapters/tiny-000004.safetensors" for name in ("runs", "straight")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_data_that_may_not_be_looked_at(tmp_path: Path, tiny_model: Path) -> None:
    """The folder above may not be entered: bad input like any other, and not the fault of a disk."""
    photos = write_pictures(tmp_path / "closed" / "photos", [(64, 64)])
    path = tmp_path / "recipe.toml"
    path.write_text(dump_recipe(recipe(tmp_path, tiny_model, data={"folder": str(photos)})))
    photos.parent.chmod(0)
    for command in (
        ["train", str(path), "--dry-run"],
        ["recipe", "check", str(path)],
        ["data", "check", str(path), "--out", str(tmp_path / "check")],
        ["data", "caption", str(photos), "--model", "any"],
        ["data", "mask", str(path), "--model", "any"],
    ):
        done = run(*COMMAND, *command)
        assert done.returncode == 2, (command, done.stderr)
        said = done.stdout + done.stderr
        assert str(photos) in said
        assert "cannot be read" in said
        assert "the right to read this one and to enter every folder above it" in said
