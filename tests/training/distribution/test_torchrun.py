"""Started by torchrun itself: a killed process, and the restart that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from velatura.recipe.toml import dump_recipe

from ...tiny import recipe


def run(
    folder: Path, model: Path, *, steps: int, restarts: int, once_saved: Callable[[int], None]
) -> tuple[int, str]:
    """Exit code and words of two processes under torchrun, whose pid `once_saved` gets after the first state."""
    training = {"steps": steps, "save_every": 5, "batch_size": 1}
    (folder / "tiny.toml").write_text(dump_recipe(recipe(folder, model, training=training)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", str(restarts), "-m", "velatura", "train", "tiny.toml", "--resume"]
    said: list[str] = []
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        assert started.stdout is not None
        for line in started.stdout:
            said.append(line)
            if line.startswith("state saved") and sum(map(_is_saved, said)) == 1:
                once_saved(started.pid)
    return started.returncode, "".join(said)


@pytest.mark.slow
def test_torchrun_restarts_and_resumes(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    def kill(pid: int) -> None:
        last = max(psutil.Process(pid).children(), key=lambda process: process.pid)
        os.kill(last.pid, signal.SIGKILL)

    code, text = run(tmp_path, tiny_model, steps=40, restarts=2, once_saved=kill)
    assert code == 0, text
    assert "error: process 1 of this run ended without a word" in text
    assert "going on after step 5" in text
    assert (tmp_path / "runs/tiny/state/000040").is_dir()


@pytest.mark.slow
def test_torchrun_does_not_undo_a_stop(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    """A file `stop`, once a state is saved; to torchrun exit 75 is a failure."""

    def stop(pid: int) -> None:
        (tmp_path / "runs/tiny/stop").touch()

    code, text = run(tmp_path, tiny_model, steps=4000, restarts=1, once_saved=stop)
    assert code == 1, text
    assert text.count("stopped on request, and is not begun again") == 1, text
    assert "going on after step" not in text
    assert json.loads((tmp_path / "runs/tiny/status.json").read_text())["state"] == "stopped"


def _is_saved(line: str) -> bool:
    return line.startswith("state saved")
