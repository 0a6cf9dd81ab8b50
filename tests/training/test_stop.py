"""What a request to stop says, and when."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from velatura.events import Event, FileSaved, LeftAtOnce, Notice, PhaseProgress, StepFinished, StepLeftOut
from velatura.training.folder import RunFolder
from velatura.training.stop import Interrupted, StopRequest, listening

from ..tiny import Log

MESSAGE = "finishing this step, then saving; press Ctrl-C again to leave at once"


class Exited(BaseException):
    """In place of the end of the process."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise Exited(code)

    monkeypatch.setattr(os, "_exit", leave)


def test_the_first_signal_is_answered_at_once() -> None:
    log = Log()
    with listening(log.events) as stop:
        assert not stop.asked
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        assert log.texts == MESSAGE


@pytest.mark.usefixtures("exits")
def test_the_second_leaves_and_lets_listeners_put_back_what_they_changed() -> None:
    log = Log()
    stop = StopRequest(log.events)
    stop.on_signal(signal.SIGINT, None)
    with pytest.raises(Exited, match=str(128 + signal.SIGTERM)):
        stop.on_signal(signal.SIGTERM, None)
    assert log.seen[1:] == [LeftAtOnce()]
    assert isinstance(log.seen[0], Notice)


def made(step: int) -> StepFinished:
    return StepFinished(
        step=step, steps=9, loss=1, grad_norm=1, learning_rate=1, seconds=1, images=1, memory=1
    )


@pytest.mark.usefixtures("exits")
@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ([made(1), made(2)], LeftAtOnce(step=2, saved=0)),
        ([made(21), made(22)], LeftAtOnce(step=22, saved=20)),  # resumed
        ([made(1), FileSaved(step=1, what="state", path=""), made(2)], LeftAtOnce(step=2, saved=1)),
        ([made(1), FileSaved(step=1, what="adapter", path="")], LeftAtOnce(step=1, saved=0)),
        ([StepLeftOut(step=4, message="", left_out=1)], LeftAtOnce(step=4, saved=3)),
    ],
)
def test_who_leaves_at_once_is_told_what_is_lost(seen: list[Event], told: LeftAtOnce) -> None:
    log = Log()
    with listening(log.events) as stop:
        for event in seen:
            log.events(event)
        stop.on_signal(signal.SIGINT, None)
        with pytest.raises(Exited):
            stop.on_signal(signal.SIGINT, None)
    assert log.seen[-1] == told


@pytest.mark.usefixtures("exits")
def test_a_listener_that_fails_keeps_nobody() -> None:
    """As a stream does that is written to from within its own writing."""

    def fails(event: Event) -> Any:
        raise RuntimeError("reentrant call")

    log = Log()
    log.events.listeners.append(fails)
    stop = StopRequest(log.events)
    stop.on_signal(signal.SIGINT, None)
    assert stop.asked
    with pytest.raises(Exited):
        stop.on_signal(signal.SIGINT, None)


def test_a_preparation_is_broken_off() -> None:
    log = Log()
    stop = StopRequest(log.events)
    with pytest.raises(Interrupted), stop.preparing():
        stop.on_signal(signal.SIGINT, None)
    assert log.texts == "stopping; press Ctrl-C again to leave at once"


def test_a_preparation_looks_for_the_file_whenever_it_makes_progress(tmp_path: Path) -> None:
    log = Log()
    with listening(log.events) as stop:
        stop.watch(RunFolder(tmp_path, "x"))
        (tmp_path / "stop").write_text("")
        log.events(PhaseProgress(phase="scan", done=1))  # outside a preparation the loop looks
        with pytest.raises(Interrupted), stop.preparing():
            log.events(PhaseProgress(phase="cache latents", done=1))
    assert log.texts == "the file 'stop' was found, and is removed: stopping"
    assert list(tmp_path.iterdir()) == []
    log.events(PhaseProgress(phase="scan", done=2))  # nobody listens any more


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, "x")


def test_a_stop_file_is_obeyed_once_and_removed(folder: RunFolder) -> None:
    log = Log()
    with listening(log.events) as stop:
        stop.watch(folder)
        assert not stop.asked
        (folder.root / "stop").write_text("")
        assert stop.asked
        assert stop.asked
        assert "the file 'stop' was found, and is removed: finishing, then saving" in log.texts
        assert list(folder.root.iterdir()) == []


def test_files_of_an_earlier_time_are_removed(folder: RunFolder) -> None:
    log = Log()
    stop = StopRequest(log.events)
    for name in ("stop", "save"):
        (folder.root / name).write_text("")
    stop.watch(folder)
    assert not stop.asked
    assert not stop.save_asked()
    assert "the file 'save' is from before this run began, and is removed" in log.texts
    assert list(folder.root.iterdir()) == []


def test_a_file_that_cannot_be_removed_is_not_obeyed(folder: RunFolder) -> None:
    """Else the run would save after every step."""
    log = Log()
    stop = StopRequest(log.events)
    stop.watch(folder)
    (folder.root / "save").mkdir()
    assert not stop.save_asked()
    assert not stop.save_asked()
    assert log.texts.count("cannot be removed, and is not obeyed") == 1


def test_a_save_file_is_answered_once(folder: RunFolder) -> None:
    log = Log()
    stop = StopRequest(log.events)
    stop.watch(folder)
    (folder.root / "save").write_text("")
    assert [stop.save_asked(), stop.save_asked(), stop.asked] == [True, False, False]
    assert "the file 'save' was found, and is removed: saving a state" in log.texts


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="a signal of POSIX")
def test_the_signal_to_save_stops_nothing() -> None:
    log = Log()
    with listening(log.events) as stop:
        with stop.preparing():
            signal.raise_signal(signal.SIGUSR1)
        assert not stop.save_asked()
        assert log.texts == "nothing to save yet: the run is being prepared"
        signal.raise_signal(signal.SIGUSR1)
        assert "saving a state after this step, then going on" in log.texts
        assert [stop.save_asked(), stop.save_asked(), stop.asked] == [True, False, False]


def test_where_there_is_no_such_signal_all_else_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGUSR1")
    log = Log()
    with listening(log.events) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
