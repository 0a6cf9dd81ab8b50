"""The real command on a disk that is too small, grown bit by bit: each time it says so, and goes on from there.

The disk is a tmpfs in a mount namespace of its own, which vanishes with the process. No user has to be root for that
where the kernel lets users have namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from velatura.recipe.toml import dump_recipe

from ..tiny import recipe, write_pictures

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
FIRST, MORE = 96, 56  # KiB: of the disk at first, and how much it grows by
SECTIONS: dict[str, Any] = {
    "training": {"steps": 4, "batch_size": 2, "save_every": 2},
    "data": {"flip": 0.5},
    "ema": {"decay": 0.9},
    "validation": {"share": 0.2, "every": 2},
    "previews": {"prompts": ["a red cube"], "every": 2, "steps": 2},
}
GROWING = f"""
import io, json, shutil, subprocess, sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from velatura.cli.app import main
from velatura.training.states.retention import steps_of
from velatura.training.states.state import read_state

disk, recipe, report, copy = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size={FIRST}k", "tmpfs", disk], check=True)
for size in range({FIRST}, 100 * {FIRST}, {MORE}):
    subprocess.run(["mount", "-o", f"remount,size={{size}}k", disk], check=True)
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main(["train", recipe, "--resume"])
    states = Path(disk, "runs/tiny/state")
    for step in steps_of(states):
        read_state(states / f"{{step:06d}}")
    with open(report, "a") as file:
        print(json.dumps([size, code, said.getvalue()]), file=file)
    if code == 0:
        break
shutil.copytree(Path(disk, "runs"), copy)
"""


def may_mount(folder: Path) -> bool:
    """Whether this user may make a small disk."""
    if shutil.which("unshare") is None:
        return False
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    return subprocess.run([*NAMESPACE, *mount], capture_output=True).returncode == 0


def results(run: Path) -> dict[str, bytes]:
    """Weights and pictures, by name."""
    files = [*run.glob("adapters/*"), *run.glob("previews/*/*.png")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_disk_that_is_too_small_again_and_again(tmp_path: Path, tiny_model: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not may_mount(disk):
        pytest.skip("a tmpfs needs `unshare --user --mount`, which this system does not allow")
    write_pictures(tmp_path / "photos", [(64, 64)] * 5 + [(96, 48)] * 2)

    def write_recipe(name: str, folder: Path) -> str:
        places = {
            "output": {"folder": str(folder / "runs")},
            "memory": {"cache_folder": str(folder / "cache")},
        }
        (tmp_path / name).write_text(dump_recipe(recipe(tmp_path, tiny_model, **SECTIONS, **places)))
        return str(tmp_path / name)

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    report, copy = tmp_path / "report.jsonl", tmp_path / "copy"
    arguments = [str(disk), write_recipe("small.toml", disk), str(report), str(copy)]
    subprocess.run(
        [*NAMESPACE, sys.executable, "-c", GROWING, *arguments], env=environment, timeout=600, check=True
    )
    straight = write_recipe("straight.toml", tmp_path / "straight")
    subprocess.run(
        [sys.executable, "-m", "velatura", "train", straight], env=environment, timeout=300, check=True
    )

    told = [json.loads(line) for line in report.open()]
    assert [code for _, code, _ in told[:-1]] == [1] * (len(told) - 1)
    assert told[-1][1] == 0, told[-1]
    assert len(told) > 3
    for _, _, said in told[:-1]:
        assert "error: " in said
        assert "Traceback" not in said
        assert "make room" in said.lower() or "No space left on device" in said
    assert results(copy / "tiny") == results(tmp_path / "straight" / "runs" / "tiny")
    assert not list(copy.rglob(".*"))
