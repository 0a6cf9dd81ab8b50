"""status.json says how a run is doing, and how it ended."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from velatura.errors import NumericError
from velatura.events import (
    Event,
    LeftAtOnce,
    Notice,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    RunEnded,
    StepFinished,
)
from velatura.runs.overview import overview
from velatura.runs.run import read_run
from velatura.training.folder import RunFolder
from velatura.training.lock import process_start
from velatura.training.reporting import heartbeat
from velatura.training.reporting.heartbeat import Heartbeat, Status, read_status
from velatura.training.reporting.logs import Logs

from ...tiny import Log
from ..conftest import Train


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def beat(tmp_path: Path, clock: Clock) -> Heartbeat:
    return Heartbeat(tmp_path / "status.json", clock)


def step(number: int, loss: float = 0.5) -> StepFinished:
    return StepFinished(
        step=number, steps=100, loss=loss, grad_norm=1.0, learning_rate=1e-4, seconds=0.5, images=4, memory=7
    )


def said(folder: Path) -> Status:
    status = read_status(folder / "status.json")
    assert status is not None
    return status


def test_what_it_says(tmp_path: Path, beat: Heartbeat, clock: Clock) -> None:
    beat(PhaseStarted(phase="train", total=100, unit="steps"))
    for number in range(11, 14):
        clock.now += 2
        beat(step(number))
    status = said(tmp_path)
    assert (status.state, status.phase, status.phase_done, status.phase_total) == (
        "running",
        "train",
        13,
        100,
    )
    assert (status.step, status.steps, status.memory) == (13, 100, 7)
    assert status.loss == pytest.approx(0.5)
    assert status.images_per_second == pytest.approx(8)
    assert status.seconds_left == pytest.approx(87 * 0.5)
    assert (status.pid, status.process_started) == (os.getpid(), process_start())
    assert 0 <= status.updated - status.started < 60


def test_nothing_is_known_before_the_first_step(tmp_path: Path, beat: Heartbeat) -> None:
    beat(PhaseStarted(phase="scan", total=6, unit="images"))
    status = said(tmp_path)
    assert (status.phase, status.step, status.steps, status.loss, status.seconds_left) == (
        "scan",
        None,
        None,
        None,
        None,
    )


def test_at_most_once_a_second(tmp_path: Path, beat: Heartbeat, clock: Clock) -> None:
    beat(step(1))
    for number, (now, expected) in enumerate([(0.5, 1), (0.99, 1), (1.0, 4), (1.9, 4), (2.0, 6)], start=2):
        clock.now = now
        beat(step(number))
        assert said(tmp_path).step == expected


@pytest.mark.parametrize(
    "event",
    [PhaseStarted(phase="previews"), RunEnded(how="finished"), LeftAtOnce()],
    ids=lambda e: type(e).__name__,
)
def test_what_cannot_wait_is_written_at_once(tmp_path: Path, beat: Heartbeat, event: Event) -> None:
    beat(step(1))
    beat(step(2))
    assert said(tmp_path).step == 1
    beat(event)
    assert said(tmp_path).step == 2


def test_phases_within_phases(tmp_path: Path, beat: Heartbeat, clock: Clock) -> None:
    seen = []
    for event in (
        PhaseStarted(phase="train", total=100, unit="steps"),
        step(10),
        PhaseStarted(phase="previews", total=40, unit="steps"),
        PhaseProgress(phase="previews", done=15),
        PhaseProgress(phase="another", done=99),
        PhaseFinished(phase="previews", seconds=1.0),
        PhaseFinished(phase="train", seconds=9.0),
    ):
        clock.now += 1
        beat(event)
        seen.append((said(tmp_path).phase, said(tmp_path).phase_done))
    assert seen == [("train", 0), ("train", 10), ("previews", 0), ("previews", 15), ("previews", 15), ("train", 10), ("", 0)]  # fmt: skip


def test_numbers_are_strict_json(tmp_path: Path, beat: Heartbeat) -> None:
    beat(step(1, loss=float("nan")))
    text = (tmp_path / "status.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["loss"] is None


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"state": "running"}', '{"state": "on fire", "pid": 1}', "\x00\xff"]
)
def test_a_file_that_says_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path / "status.json") is None


def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(heartbeat.os, "replace", full)


def test_a_full_disk_leaves_the_last_status_and_nothing_else(
    tmp_path: Path, beat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(PhaseStarted(phase="scan"))
    no_room(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        beat(PhaseStarted(phase="train"))
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    assert said(tmp_path).phase == "scan"


def test_a_full_disk_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, log = RunFolder(tmp_path, "x"), Log()
    logs = Logs(folder, log.events)
    no_room(monkeypatch)
    for _ in range(3):
        logs(PhaseStarted(phase="train"))
    logs.close()
    (told,) = log.of(Notice)
    assert f"{folder.status} cannot be written: No space left on device. The run goes on" in told.message


def test_it_shows_life_while_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine counts a run as gone that it does not hear of, and takes its folder."""
    monkeypatch.setattr(heartbeat, "ALIVE_EVERY", 0.01)
    path = tmp_path / "status.json"
    beat = Heartbeat(path)
    beat(PhaseStarted(phase="train"))
    text, long_ago = path.read_text(), time.time() - 3600
    os.utime(path, (long_ago, long_ago))
    until = time.monotonic() + 20
    while path.stat().st_mtime < long_ago + 60 and time.monotonic() < until:
        time.sleep(0.01)
    assert path.stat().st_mtime > time.time() - 60
    assert path.read_text() == text
    beat.close()
    path.unlink()  # nor does it end with the file


@pytest.mark.parametrize("jump", [-7200.0, 86_400.0])
def test_a_clock_that_is_set_moves_no_figure(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """In the middle of a run; what is measured is measured by a clock that nobody sets."""
    real, ahead = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    folder, states, began = tmp_path / "runs" / "tiny", [], time.monotonic()

    def watch(event: Event) -> None:
        nonlocal ahead
        if isinstance(event, StepFinished):
            ahead = jump if event.step >= 2 else 0.0
            states.append(overview(folder).state)

    found = run(training={"steps": 4}, watch=watch)
    lasted = time.monotonic() - began
    assert states == ["running"] * 4
    seconds = [event.seconds for event in (*found.log.of(StepFinished), *found.log.of(PhaseFinished))]
    assert all(0 <= took <= lasted for took in seconds)
    status = said(folder)
    assert (status.state, status.seconds_left) == ("finished", 0)
    assert status.updated - real() == pytest.approx(jump, abs=60)
    assert [step for step, _ in read_run(folder).losses] == [1, 2, 3, 4]


def test_a_run_that_finishes(run: Train) -> None:
    found = run(training={"steps": 3})
    status = said(found.folder)
    assert (status.state, status.message, status.step, status.steps) == ("finished", "", 3, 3)
    assert found.log.of(RunEnded) == [RunEnded(how="finished")]


def test_a_run_that_is_stopped_and_goes_on(run: Train) -> None:
    seen: list[Status] = []

    def watch(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "train":
            seen.append(said(folder))

    folder = run(training={"steps": 4}, stop_after=2).folder
    assert (said(folder).state, said(folder).step) == ("stopped", 2)
    run(training={"steps": 4}, resume=True, watch=watch)
    assert [status.state for status in seen] == ["running"]
    assert said(folder).state == "finished"


def test_a_run_that_fails_says_why(run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NumericError("the loss is nan")

    monkeypatch.setattr("velatura.training.loop.Loop._one_step", fail)
    with pytest.raises(NumericError):
        run(training={"steps": 2})
    status = said(tmp_path / "runs" / "tiny")
    assert status.state == "failed"
    assert status.message == "the loss is nan No state was saved yet."


def test_a_bug_is_named_and_a_lack_of_memory_is_told_as_such(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for into, error, told in (
        ("bug", KeyError("oops"), "KeyError: 'oops'"),
        ("memory", MemoryError(), "the memory of this machine is not enough (MemoryError). What needs less"),
    ):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("velatura.training.run.prepare", fail)
        with pytest.raises(Exception):  # noqa: B017 - what it is stands in the file
            run(into=into)
        assert said(tmp_path / into / "tiny").message.startswith(told)


def test_what_a_run_left_is_there_to_be_looked_at(run: Train) -> None:
    previews = {"every": 2, "steps": 1, "prompts": ["a cat"]}
    found = run(training={"steps": 4}, previews=previews, validation={"share": 0.3, "every": 2})
    read = read_run(found.folder)
    assert (read.overview.name, read.overview.state, read.overview.step) == ("tiny", "finished", 4)
    assert [loss for _, loss in read.losses] == found.losses
    assert {name: [step for step, _ in points] for name, points in read.validations.items()} == {
        "validation": [2, 4]
    }
    assert [picture.step for picture in read.pictures] == [0, 2, 4]
    assert read.states[-1] == "000004"
    assert [path.name for path, _ in read.models][-1] == "tiny-000004.safetensors"
    assert {"scan", "train", "previews"} <= {phase.name for phase in read.phases}
