"""Stopping and saving on request, by signals and by files: the step in hand is finished first."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from velatura.events import (
    Event,
    Events,
    FileSaved,
    LeftAtOnce,
    PhaseProgress,
    StepFinished,
    StepLeftOut,
)
from velatura.training.folder import RunFolder

EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped and saved, --resume goes on
NOTHING_YET = "nothing to save yet: the run is being prepared"
_Handler = Callable[[int, FrameType | None], None]


class Interrupted(KeyboardInterrupt):
    """A stop request that came while there was nothing to finish first."""


class StopRequest:
    """Whether someone asked the run to stop, or to save and go on; what becomes of a request is told at once.

    Requests are signals, and from `watch` on the files `stop` and `save` in the run's folder. A file is removed when
    it is obeyed. It is a listener, too: it looks for the file `stop` while a preparation makes progress, and keeps in
    mind what would be lost by leaving at once.
    """

    def __init__(self, events: Events, echo: float = 0.0) -> None:
        self._events = events
        self._echo = echo  # seconds in which a signal again is the same request, passed on by a launcher
        self._asked_at = 0.0
        self._asked = False
        self._save_asked = False
        self._preparing = False
        self._folder: RunFolder | None = None
        self._refused: set[str] = set()  # files that could not be removed
        self._step: int | None = None  # made
        self._saved = 0  # in the newest state

    def __call__(self, event: Event) -> None:
        """Raise Interrupted between two items of a preparation, if someone asked for it by the file."""
        match event:
            case PhaseProgress() if self._preparing and self.asked:
                raise Interrupted
            case StepFinished() | StepLeftOut():
                if self._step is None:
                    self._saved = event.step - 1  # the run began there
                self._step = event.step
            case FileSaved(what="state"):
                self._saved = event.step

    @property
    def asked(self) -> bool:
        """Whether to stop."""
        if not self._asked and self._found("stop"):
            self._asked = True
            doing = "stopping" if self._preparing else "finishing, then saving"
            self._events.notice(f"the file 'stop' was found, and is removed: {doing}")
        return self._asked

    def save_asked(self) -> bool:
        """Whether to save a state now; a request is answered once."""
        if not self._save_asked and self._found("save"):
            self._save_asked = True
            self._events.notice("the file 'save' was found, and is removed: saving a state")
        asked, self._save_asked = self._save_asked, False
        return asked

    def watch(self, folder: RunFolder) -> None:
        """Look for the files from now on; those of an earlier time are removed."""
        self._folder = folder
        for name in ("stop", "save"):
            if self._found(name):
                self._events.notice(f"the file '{name}' is from before this run began, and is removed")

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """First signal: remember it, or interrupt a preparation. Second: leave at once, as unhandled ones do."""
        if self._asked and time.monotonic() - self._asked_at < self._echo:
            return
        if self._asked:
            try:
                self._events(LeftAtOnce(step=self._step, saved=self._saved))
            finally:
                os._exit(128 + number)
        self._asked, self._asked_at = True, time.monotonic()
        doing = "stopping" if self._preparing else "finishing this step, then saving"
        self._say(f"{doing}; press Ctrl-C again to leave at once")
        if self._preparing:
            raise Interrupted

    def on_save_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember that a state is wanted; while the run is being prepared there is none."""
        self._save_asked = not self._preparing
        self._say(NOTHING_YET if self._preparing else "saving a state after this step, then going on")

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Work that may be broken off anywhere: a request raises Interrupted in it."""
        self._preparing = True
        try:
            yield
        finally:
            self._preparing = False

    def _say(self, message: str) -> None:
        """From a signal handler, maybe in the middle of a line: a file is not written twice at once."""
        with suppress(RuntimeError):
            self._events.notice(message)

    def _found(self, name: str) -> bool:
        """Take away a file, if it is there."""
        if self._folder is None or name in self._refused:
            return False
        path = self._folder.request(name)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._refused.add(name)
            self._events.warn(f"{path} cannot be removed, and is not obeyed: {error.strerror}")
            return False
        return True


@contextmanager
def listening(events: Events, echo: float = 0.0) -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM and (where there is one) SIGUSR1 into requests while the block runs.

    Only the main thread gets signals. Launchers pass on what reaches the processes themselves, too: signals within
    `echo` seconds are one.
    """
    request = StopRequest(events, echo)
    events.listeners.append(request)
    try:
        with _handled(terminate=request.on_signal, save=request.on_save_signal, interrupt=request.on_signal):
            yield request
    finally:
        events.listeners.remove(request)


class Early:
    """A signal that came before the run began. What it raises may be swallowed where something is imported."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.over = False  # the run begins, and speaks for itself: torchrun sends signals while it ends, too

    def end(self) -> None:
        """Obey the one that came; say nothing of later ones."""
        self.over = True
        if self.code is not None:
            raise SystemExit(self.code)


@contextmanager
def answering_early(tell: Callable[[str], None]) -> Iterator[Early]:
    """Answer signals while what a run needs is imported, which takes a cold disk minutes: SIGTERM ends with 75."""
    early = Early()

    def say(message: str) -> None:
        with suppress(RuntimeError):  # in the middle of another line
            if not early.over:
                tell(message)

    def stop(number: int, frame: FrameType | None) -> None:
        early.code = EXIT_STOPPED
        say("stopped before the run began")
        raise SystemExit(EXIT_STOPPED)

    def interrupt(number: int, frame: FrameType | None) -> None:
        early.code = 128 + number
        raise KeyboardInterrupt

    def save(number: int, frame: FrameType | None) -> None:
        say(NOTHING_YET)

    with _handled(terminate=stop, save=save, interrupt=interrupt):
        yield early


@contextmanager
def _handled(*, terminate: _Handler, save: _Handler, interrupt: _Handler | None = None) -> Iterator[None]:
    """Within the block signals are answered so; only the main thread gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signal.SIGTERM: terminate}
    if interrupt is not None:
        handlers[signal.SIGINT] = interrupt
    if hasattr(signal, "SIGUSR1"):  # not on Windows
        handlers[signal.SIGUSR1] = save
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
