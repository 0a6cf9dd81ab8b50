"""Stopping on request: the step in hand is finished and saved; a second request stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from velatura.events import Events, LeftAtOnce

EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped and saved, --resume goes on


class Interrupted(KeyboardInterrupt):
    """A stop request that came while there was nothing to finish first."""


class StopRequest:
    """Whether someone asked the run to stop; what becomes of the request is told through `events` at once."""

    def __init__(self, events: Events) -> None:
        self.asked = False
        self._events = events
        self._preparing = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """First signal: remember it, or interrupt a preparation. Second: leave at once, as unhandled ones do."""
        if self.asked:
            try:
                self._events(LeftAtOnce())
            finally:
                os._exit(128 + number)
        self.asked = True
        doing = "stopping" if self._preparing else "finishing this step, then saving"
        with suppress(RuntimeError):  # in the middle of a line: a file is not written twice at once
            self._events.notice(f"{doing}; press Ctrl-C again to leave at once")
        if self._preparing:
            raise Interrupted

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Work that may be broken off anywhere: a request raises Interrupted in it."""
        self._preparing = True
        try:
            yield
        finally:
            self._preparing = False


@contextmanager
def listening(events: Events) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request while the block runs (only in the main thread)."""
    request = StopRequest(events)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
