"""What a request to stop says, and when."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from velatura.events import Event, LeftAtOnce, Notice
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
    assert [type(event) for event in log.seen] == [Notice, LeftAtOnce]


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
