"""The real command, killed with -9 at random moments and resumed each time, ends where an undisturbed run does.

VELATURA_KILLS says how often (default 6), VELATURA_KILL_SEED when (default 0).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from velatura.checkpoints.reader import TensorFile
from velatura.recipe.toml import dump_recipe

from ..tiny import recipe, write_pictures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals of POSIX"),
]
KILLS = int(os.environ.get("VELATURA_KILLS", "6"))
SEED = int(os.environ.get("VELATURA_KILL_SEED", "0"))
STEPS = 30
SECTIONS: dict[str, Any] = {
    "training": {"steps": STEPS, "batch_size": 2, "accumulate": 2, "save_every": 3},
    "data": {"flip": 0.5, "caption_dropout": 0.2},
    "ema": {"decay": 0.9},
    "validation": {"share": 0.2, "every": 5},
    "previews": {"prompts": ["a red cube", "a blue cone"], "every": 5},
    "output": {"folder": "runs", "keep_states": 2},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_pictures(folder / "photos", [(64, 64)] * 8 + [(96, 48)] * 4)
    return folder


def start(world: Path, model: Path, folder: Path, compiled: bool) -> subprocess.Popen[str]:
    """The first time and every other time: the same command. What is compiled is kept in the folder."""
    folder.mkdir(exist_ok=True)
    sections = SECTIONS
    if compiled:  # without a batch of one item, whose graphs take another minute
        training = {**SECTIONS["training"], "compile": True}
        sections = {**SECTIONS, "training": training, "validation": {"share": 0.0}}
    (folder / "recipe.toml").write_text(dump_recipe(recipe(world, model, **sections)))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VELATURA_CACHE": str(folder / "cache"),
    }
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    return subprocess.Popen(
        [sys.executable, "-m", "velatura.cli.app", "train", "recipe.toml", "--resume"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def newest(folder: Path) -> int:
    """When something was written last."""
    return max((_written(path) for path in folder.rglob("*")), default=0)


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # a staged file that is no more
        return 0


def wait_for_life(process: subprocess.Popen[str], folder: Path) -> None:
    """Until a process writes its first file; importing is not what is to be tested."""
    before = newest(folder)
    while process.poll() is None and newest(folder) == before:
        time.sleep(0.01)


def killed_within(process: subprocess.Popen[str], folder: Path, seconds: float) -> bool:
    """Kill it so long after its first sign of life; False where it had ended by then."""
    wait_for_life(process, folder)
    time.sleep(seconds)
    ended = process.poll() is not None
    process.kill()
    out, _ = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), out
    return not ended


def losses(folder: Path) -> dict[int, float]:
    """Step -> loss, as the log has it last; a line that a kill cut off is none."""
    found: dict[int, float] = {}
    for line in (folder / "runs" / "tiny" / "events.jsonl").read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event["kind"] == "StepFinished":
            assert found.get(event["step"], event["loss"]) == event["loss"]  # replayed bit for bit
            found[event["step"]] = event["loss"]
    return found


def results(folder: Path) -> dict[str, bytes]:
    """Weights and pictures of a run, by name."""
    run = folder / "runs" / "tiny"
    files = [*(run / "adapters").iterdir(), *(run / "previews").rglob("*.png")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def whole(folder: Path) -> None:
    """No file that a user looks at is half written, at any time."""
    for path in folder.glob("runs/tiny/adapters/*"):
        if not path.name.startswith("."):
            with TensorFile(path) as file:
                assert all(file.read(key).isfinite().all() for key in file)
    for path in folder.glob("runs/tiny/previews/**/*.png"):
        with Image.open(path) as image:
            image.load()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_killed_at_random_and_resumed(world: Path, tiny_model: Path, tmp_path: Path, compiled: bool) -> None:
    straight = tmp_path / "straight"
    process = start(world, tiny_model, straight, compiled)
    wait_for_life(process, straight)
    began = time.monotonic()
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out
    lasted = time.monotonic() - began

    tried, chance = tmp_path / "tried", random.Random(SEED)
    kills = 0
    for _ in range(KILLS // 2 if compiled else KILLS):  # half as many: compiling takes its time
        process = start(world, tiny_model, tried, compiled)
        kills += killed_within(process, tried, chance.uniform(0, lasted / 3))
        whole(tried)
    out, _ = (last := start(world, tiny_model, tried, compiled)).communicate(timeout=900)
    assert last.returncode == 0, out
    assert kills

    assert losses(tried) == losses(straight)
    assert set(losses(tried)) == set(range(1, STEPS + 1))
    ours, theirs = results(tried), results(straight)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    left = [path for path in tried.rglob("*") if path.name.startswith(".") or "staged" in path.name]
    assert [path.name for path in left if path.name != ".lock"] == []
