"""Ctrl-C and kill -9, on processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from velatura.recipe.toml import dump_recipe

from ..tiny import recipe, write_pictures
from .conftest import SIZES, equal, tensors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals of POSIX"),
]
STEPS = 40
# dies within the save of step 20: at the N-th file that is forced to the disk, or before the renaming
DYING = """
import os, signal, sys
from velatura.cli.app import main
import velatura.training.states.state as state
real = {place}
def dying(*arguments, **options):
    if state_of_20():
        dying.calls += 1
        if dying.calls == {when}:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
def state_of_20():
    return os.path.isdir("runs/tiny/state/.000020.staged")
dying.calls = 0
{place} = dying
sys.exit(main(sys.argv[1:]))
"""


# signalled once, when it begins to import torch
EARLY = """
import os, signal, sys
from velatura.cli.app import main
class Finder:
    signalled = False
    def find_spec(self, name, path=None, target=None):
        if name == "torch" and not self.signalled:
            self.signalled = True
            os.kill(os.getpid(), signal.{signal})
sys.meta_path.insert(0, Finder())
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures."""
    folder = tmp_path_factory.mktemp("world")
    write_pictures(folder / "photos", SIZES)
    return folder


@pytest.fixture(scope="module")
def command(world: Path, tiny_model: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `velatura train` in a folder of its own."""

    def start(folder: Path, *options: str, program: str | None = None) -> subprocess.Popen[str]:
        folder.mkdir(exist_ok=True)
        sections: dict[str, Any] = {
            "training": {"steps": STEPS, "batch_size": 2, "save_every": 10},
            "data": {"flip": 0.5},
            "output": {"folder": "runs", "keep_states": 3},
        }
        (folder / "recipe.toml").write_text(dump_recipe(recipe(world, tiny_model, **sections)))
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "VELATURA_CACHE": str(folder / "cache"),
        }
        begin = (
            [sys.executable, "-m", "velatura.cli.app"] if program is None else [sys.executable, "-c", program]
        )
        return subprocess.Popen(
            [*begin, "train", "recipe.toml", *options],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture(scope="module")
def undisturbed(command: Any, world: Path) -> dict[str, Any]:
    """What a run learns that nobody stops."""
    finish(command(world / "straight"), 0)
    return adapter(world / "straight")


def finish(process: subprocess.Popen[str], expect: int) -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == expect, out
    return out


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until the run in `folder` has finished a step."""
    log = folder / "runs" / "tiny" / "events.jsonl"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and any(_step(line) >= step for line in log.read_text().splitlines()):
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached")


def _step(line: str) -> int:
    try:
        event = json.loads(line)
    except ValueError:
        return -1
    return int(event["step"]) if event["kind"] == "StepFinished" else -1


def adapter(folder: Path) -> dict[str, Any]:
    return tensors(folder / "runs" / "tiny" / "adapters" / f"tiny-{STEPS:06d}.safetensors")


def test_ctrl_c_saves_and_resume_ends_where_an_undisturbed_run_does(
    command: Any, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    for number, kind in enumerate((signal.SIGINT, signal.SIGTERM)):
        process = command(tmp_path / "x", *(["--resume"] if number else []))
        wait_for_step(tmp_path / "x", 3 + 10 * number, process)
        process.send_signal(kind)
        said = finish(process, 75)
        assert "finishing this step, then saving; press Ctrl-C again to leave at once" in said
        assert "go on with --resume" in said
        assert not (tmp_path / "x" / "runs" / "tiny" / ".lock").exists()
    finish(command(tmp_path / "x", "--resume"), 0)
    assert equal(adapter(tmp_path / "x"), undisturbed)


def test_a_second_ctrl_c_ends_at_once_and_loses_nothing_saved(
    command: Any, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    process = command(tmp_path / "x")
    wait_for_step(tmp_path / "x", 12, process)
    process.send_signal(signal.SIGSTOP)  # so that both arrive before the step is over
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    ended, _ = process.communicate(timeout=120)
    lost = int(
        re.search(r"left at once: (\d+) steps? (?:is|are) lost, --resume goes on after step 10", ended)[1]
    )  # type: ignore[index]
    assert lost >= 2
    assert process.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    said = finish(command(tmp_path / "x", "--resume"), 0)  # the lock of the dead process is taken over
    assert "going on after step 10" in said
    assert equal(adapter(tmp_path / "x"), undisturbed)


@pytest.mark.parametrize(("place", "when"), [("os.fsync", 1), ("os.fsync", 7), ("state.os.replace", 1)])
def test_kill_9_during_a_save_leaves_the_state_before(
    command: Any, undisturbed: dict[str, Any], tmp_path: Path, place: str, when: int
) -> None:
    finish(command(tmp_path / "x", program=DYING.format(place=place, when=when)), -signal.SIGKILL)
    states = tmp_path / "x" / "runs" / "tiny" / "state"
    assert (states / ".000020.staged").is_dir()
    assert not (states / "000020").exists()
    said = finish(command(tmp_path / "x", "--resume"), 0)
    assert "going on after step 10" in said
    assert sorted(path.name for path in states.iterdir()) == ["000020", "000030", "000040"]
    assert equal(adapter(tmp_path / "x"), undisturbed)


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("SIGTERM", 75, "stopped before the run began"),
        ("SIGINT", 130, "interrupted"),
        ("SIGUSR1", 0, "nothing to save yet: the run is being prepared"),
    ],
)
def test_signals_are_answered_from_the_beginning(
    command: Any, tmp_path: Path, name: str, code: int, told: str
) -> None:
    """A cluster may take back a machine at once; importing takes it a while."""
    options = ("--set", "training.steps=1")
    assert told in finish(command(tmp_path / "x", *options, program=EARLY.format(signal=name)), code)


def test_a_signal_saves_and_a_file_stops(command: Any, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    process = command(tmp_path / "x")
    wait_for_step(tmp_path / "x", 3, process)
    process.send_signal(signal.SIGUSR1)
    wait_for_step(tmp_path / "x", 6, process)
    (tmp_path / "x" / "runs" / "tiny" / "stop").touch()
    said = finish(process, 75)
    assert "saving a state after this step, then going on" in said
    assert "the file 'stop' was found" in said
    saved = sorted(path.name for path in (tmp_path / "x" / "runs" / "tiny" / "state").iterdir())
    assert len(saved) > 1
    assert 3 <= int(saved[0]) < 10
    finish(command(tmp_path / "x", "--resume-at", str(int(saved[0]))), 0)
    assert equal(adapter(tmp_path / "x"), undisturbed)
