"""A phase with progress: started, now and then a tick, finished."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from velatura.events import Events, PhaseFinished, PhaseProgress, PhaseStarted

_EVERY = 0.25  # seconds between progress events


class Phase:
    """Counts what is done and tells the listeners, at most every quarter of a second."""

    def __init__(self, events: Events, name: str) -> None:
        self._events = events
        self.name = name
        self._started = self._told = time.monotonic()
        self.done = 0

    def advance(self, count: int = 1) -> None:
        """`count` more units are finished."""
        self.done += count
        now = time.monotonic()
        if now - self._told >= _EVERY:
            self._told = now
            self._events(PhaseProgress(phase=self.name, done=self.done))

    @property
    def seconds(self) -> float:
        """Since the phase began."""
        return time.monotonic() - self._started


@contextmanager
def phase(events: Events, name: str, total: int, unit: str = "images") -> Iterator[Phase]:
    """Run a named phase of `total` units; PhaseFinished comes only when it ends without an error."""
    events(PhaseStarted(phase=name, total=total, unit=unit))
    current = Phase(events, name)
    yield current
    events(PhaseProgress(phase=name, done=current.done))
    events(PhaseFinished(phase=name, seconds=current.seconds))
