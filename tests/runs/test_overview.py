from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from velatura.errors import RecipeError
from velatura.runs.overview import SILENT, find_run, find_runs, overview, size_of, state_of

from .folders import status, write_run


def test_a_run_that_is_on(tmp_path: Path) -> None:
    found = overview(write_run(tmp_path / "dog"))
    assert (found.name, found.folder, found.state) == ("dog", str(tmp_path / "dog"), "running")
    assert (found.phase, found.step, found.steps, found.loss) == ("train", 20, 40, 0.25)
    assert (found.images_per_second, found.seconds_left) == (8.0, 10.0)
    assert found.updated == pytest.approx(time.time() - 5, abs=60)
    assert found.size > 2**20


def gone() -> int:
    """The id of a process that is over."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "running"),
        ({"process_started": 1.0}, "dead"),  # the id belongs to another process by now
        ({"pid": -1}, "dead"),
        ({"pid": 10**30}, "dead"),
        ({"host": "elsewhere", "pid": 1}, "running"),
        ({"host": "elsewhere", "updated": time.time() - SILENT - 1}, "silent"),
        ({"state": "finished"}, "finished"),
        ({"state": "stopped", "host": "elsewhere"}, "stopped"),
        ({"state": "failed", "pid": -1}, "failed"),
    ],
)
def test_states(changes: dict[str, Any], state: str) -> None:
    assert state_of(status(**changes)) == state


@pytest.mark.parametrize(("touched", "state"), [(30.0, "running"), (SILENT + 30.0, "silent")])
def test_a_run_elsewhere_with_nothing_to_say_touches_its_file(
    tmp_path: Path, touched: float, state: str
) -> None:
    """As it does while large weights are loaded; the last word stays as old as it is."""
    word = time.time() - SILENT - 60
    root = write_run(tmp_path / "dog", host="elsewhere", updated=word)
    then = time.time() - touched
    os.utime(root / "status.json", (then, then))
    found = overview(root)
    assert (found.state, found.updated) == (state, word)


def test_a_process_that_is_gone_is_dead() -> None:
    assert state_of(status(pid=gone(), process_started=time.time())) == "dead"
    assert state_of(None) == "unknown"


def test_what_is_over_has_no_time_left(tmp_path: Path) -> None:
    found = overview(write_run(tmp_path / "dog", state="failed", message="the loss is nan"))
    assert (found.phase, found.seconds_left, found.images_per_second) == ("", None, None)
    assert (found.message, found.step) == ("the loss is nan", 20)


@pytest.mark.parametrize("damage", ["", '{"state"', None])
def test_without_a_status_the_log_tells(tmp_path: Path, damage: str | None) -> None:
    root = write_run(tmp_path / "dog", losses=(1.0, 0.5))
    (root / "status.json").unlink()
    if damage is not None:
        (root / "status.json").write_text(damage)
    with open(root / "events.jsonl", "a") as file:
        file.write('{"kind": "StepFin')
    os.utime(root / "events.jsonl", (1e9, 1e9))
    found = overview(root)
    assert (found.state, found.step, found.steps, found.loss, found.updated) == ("unknown", 2, 40, 0.75, 1e9)


def test_a_run_that_is_being_resumed_is_as_far_as_its_log(tmp_path: Path) -> None:
    found = overview(write_run(tmp_path / "dog", step=None, steps=None, loss=None, phase="scan"))
    assert (found.state, found.phase, found.step, found.steps) == ("running", "scan", 4, 40)


def test_a_folder_with_a_recipe_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("")
    found = overview(tmp_path)
    assert (found.state, found.step, found.loss, found.size) == ("unknown", None, None, 0)
    assert found.updated is not None


def test_which_folders_are_runs(tmp_path: Path) -> None:
    dog, cat = write_run(tmp_path / "dog"), write_run(tmp_path / "cat")
    (tmp_path / "notes").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file.txt").touch()
    assert find_runs(tmp_path) == ([cat, dog], [tmp_path / "notes"])
    assert find_runs(tmp_path / "notes") == ([], [])
    with pytest.raises(RecipeError, match="is a run itself: `velatura runs show"):
        find_runs(dog)
    with pytest.raises(RecipeError, match=r"there is no folder .*none; runs are written to `output.folder`"):
        find_runs(tmp_path / "none")


def test_a_run_by_its_name_or_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dog = write_run(tmp_path / "runs" / "dog")
    (tmp_path / "runs" / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_run("dog") == Path("runs/dog")
    assert find_run(str(dog)) == dog
    assert find_run("runs/dog") == Path("runs/dog")
    with pytest.raises(
        RecipeError, match="there is no run 'cat', neither as a folder nor under 'runs', which has: dog"
    ):
        find_run("cat")
    with pytest.raises(RecipeError, match="runs/other is no run: it has no recipe.toml"):
        find_run("runs/other")
    monkeypatch.chdir(tmp_path / "runs" / "other")
    with pytest.raises(RecipeError, match="there is no run 'cat', neither as a folder nor under 'runs'$"):
        find_run("cat")


def test_size_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a").write_bytes(bytes(1000))
    near = tmp_path / "near"
    (near / "sub").mkdir(parents=True)
    (near / "sub" / "b").write_bytes(bytes(10))
    (near / "link").symlink_to(tmp_path / "far")
    assert size_of(near) == 10
    (near / "c").symlink_to(tmp_path / "gone")
    assert size_of(near) < 1000
