"""What goes on, shown as it goes on: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from velatura.cli.console import harmless
from velatura.events import (
    Event,
    FileSaved,
    LeftAtOnce,
    Listener,
    Notice,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    PreviewSaved,
    StepFinished,
    ValidationFinished,
)
from velatura.plural import agreeing, counted
from velatura.training.reporting.figures import PhaseFigures, TrainingFigures, duration

PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal
TOLD_FROM = 1.0  # seconds from which it is worth a line how long a phase took
TRAIN = "train"  # this phase is shown by its steps
SHOW_CURSOR = b"\x1b[?25h\r\n"


@contextmanager
def progress(stream: TextIO) -> Iterator[Listener]:
    """A listener that shows a run's events on `stream` while the block runs."""
    console = Console(file=stream, highlight=False, soft_wrap=True)
    # FORCE_COLOR makes rich take a file for a terminal, and on TERM=dumb it draws nothing
    if not (stream.isatty() and console.is_interactive):
        yield PlainProgress(console)
        return
    view = LiveProgress(console)
    with view.live:
        yield view


class PlainProgress:
    """Lines for a log: what begins, what ends, and how far it is every ten seconds."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._said = {"phase": clock(), "step": clock()}  # when figures were last told
        self._phase: PhaseFigures | None = None
        self._training = TrainingFigures()

    def __call__(self, event: Event) -> None:
        """Take in an event; say what is worth a line."""
        match event:
            case PhaseStarted():
                self._phase = _begun(event, self._clock())
                self._tell("phase", ": ".join([event.phase, *self._phase.parts(self._phase.started)]))
            case PhaseProgress() if self._phase and event.phase == self._phase.phase:
                self._phase.done = event.done
                if self._due("phase"):
                    self._tell("phase", f"{event.phase}: {', '.join(self._phase.parts(self._clock()))}")
            case StepFinished():
                self._training.add(event)
                if self._due("step") or event.step in (1, event.steps):
                    self._tell(
                        "step", f"step {event.step}/{event.steps}: {', '.join(self._training.parts())}"
                    )
            case _:
                for text in _lines(event):
                    self._say(text.plain)

    def _due(self, what: str) -> bool:
        """Whether ten seconds went by without these figures, whatever else was said meanwhile."""
        return self._clock() - self._said[what] >= PLAIN_EVERY

    def _tell(self, what: str, line: str) -> None:
        self._say(line)
        self._said[what] = self._clock()

    def _say(self, line: str) -> None:
        self._console.print(harmless(line), markup=False)


class LiveProgress:
    """A bar for the phase in hand and one for the training, below the lines that stay."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase: PhaseFigures | None = None
        self._training = TrainingFigures()
        self.live = Live(console=console, get_renderable=self._render, refresh_per_second=5, transient=True)

    def __call__(self, event: Event) -> None:
        """Take in an event; print what shall stay above the bar."""
        match event:
            case PhaseStarted():
                self._phase = _begun(event, self._clock())
            case PhaseProgress() if self._phase and event.phase == self._phase.phase:
                self._phase.done = event.done
            case StepFinished():
                self._training.add(event)
            case LeftAtOnce():
                try:
                    self._print(event)
                finally:
                    self._show_cursor()
            case _:
                if isinstance(event, PhaseFinished):
                    self._phase = None
                self._print(event)

    def _print(self, event: Event) -> None:
        for line in _lines(event):
            line.plain = harmless(line.plain)
            self.live.console.print(line)

    def _show_cursor(self) -> None:
        """Straight to the terminal: the signal may have come in the middle of a line that never ends."""
        with suppress(OSError):
            os.write(self.live.console.file.fileno(), SHOW_CURSOR)

    def _render(self) -> RenderableType:
        rows: list[RenderableType] = []
        if self._phase is not None and self._phase.phase != TRAIN:
            phase = self._phase
            rows.append(_bar(phase.phase, phase.done, phase.total, phase.parts(self._clock())))
        elif self._phase is not None and self._training.last is None:  # it may compile for minutes
            rows.append(_bar("first step", 0, 0, [duration(self._clock() - self._phase.started)]))
        if (last := self._training.last) is not None:
            figures = self._training.parts()
            rows.append(_bar("step", last.step, last.steps, [f"{last.step:,}/{last.steps:,}"]))
            rows.append(Text("     " + " · ".join(figures), style="cyan", no_wrap=True, overflow="ellipsis"))
        return Group(*rows)


def _begun(event: PhaseStarted, now: float) -> PhaseFigures:
    return PhaseFigures(phase=event.phase, total=event.total, unit=event.unit, started=now)


def _bar(name: str, done: int, total: int, figures: list[str]) -> Table:
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1, min_width=10)
    row.add_column(no_wrap=True)
    bar = ProgressBar(total=total or None, completed=done, pulse=not total)
    row.add_row(Text(name), bar, Text(" · ".join(figures)))
    return row


def _lines(event: Event) -> list[Text]:
    """What stays on the screen of an event; texts, since `[model]` in a message is no markup."""
    match event:
        case PhaseFinished():
            if event.seconds < TOLD_FROM:
                return []
            return [Text(f"{event.phase}: done in {duration(event.seconds)}", style="dim")]
        case ValidationFinished():
            return [Text(f"{event.name} loss after step {event.step}: {event.loss:.4f}")]
        case PreviewSaved():
            return [Text(f"preview after step {event.step}: {event.path}", style="dim")]
        case FileSaved():
            return [Text(f"{event.what} saved: {event.path}", style="green")]
        case LeftAtOnce():
            return [Text(f"left at once: {_lost(event)}", style="yellow")]
        case Notice() if event.level == "warning":
            return [Text(f"warning: {event.message}", style="yellow")]
        case Notice():
            return [Text(event.message)]
        case _:
            return []


def _lost(event: LeftAtOnce) -> str:
    """What becomes of the steps that were made."""
    if event.step is None:
        return "--resume goes on from the state that was saved last, if there is one"
    lost = event.step - event.saved
    told = f"{counted(lost, 'step')} {agreeing(lost, 'is', 'are')} lost" if lost else "no step is lost"
    then = (
        f"--resume goes on after step {event.saved}" if event.saved else "--resume begins again at the first"
    )
    return f"{told}, {then}"
