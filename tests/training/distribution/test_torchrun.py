"""Started by torchrun itself: a killed process, and the restart that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from velatura.recipe.toml import dump_recipe

from ...tiny import recipe


@pytest.mark.slow
def test_torchrun_restarts_and_resumes(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    wanted = recipe(tmp_path, tiny_model, training={"steps": 40, "save_every": 5, "batch_size": 1})
    (tmp_path / "tiny.toml").write_text(dump_recipe(wanted))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", "2", "-m", "velatura", "train", "tiny.toml", "--resume"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        assert started.stdout is not None
        said: list[str] = []
        for line in started.stdout:
            said.append(line)
            if line.startswith("state saved") and sum(map(_is_saved, said)) == 1:
                last = max(psutil.Process(started.pid).children(), key=lambda process: process.pid)
                os.kill(last.pid, signal.SIGKILL)
    text = "".join(said)
    assert started.returncode == 0, text
    assert "error: process 1 of this run ended without a word" in text
    assert "going on after step 5" in text
    assert (tmp_path / "runs/tiny/state/000040").is_dir()


@pytest.mark.slow
def test_torchrun_does_not_undo_a_stop(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    """A file `stop`, once a state is saved; to torchrun exit 75 is a failure."""
    wanted = recipe(tmp_path, tiny_model, training={"steps": 4000, "save_every": 5, "batch_size": 1})
    (tmp_path / "tiny.toml").write_text(dump_recipe(wanted))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", "1", "-m", "velatura", "train", "tiny.toml", "--resume"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        assert started.stdout is not None
        said: list[str] = []
        for line in started.stdout:
            said.append(line)
            if line.startswith("state saved") and sum(map(_is_saved, said)) == 1:
                (tmp_path / "runs/tiny/stop").touch()
    text = "".join(said)
    assert started.returncode == 1, text
    assert text.count("stopped on request, and is not begun again") == 1
    assert "going on after step" not in text
    assert json.loads((tmp_path / "runs/tiny/status.json").read_text())["state"] == "stopped"


def _is_saved(line: str) -> bool:
    return line.startswith("state saved")
