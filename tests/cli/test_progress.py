from __future__ import annotations

import io
import os
import select
from dataclasses import dataclass

import pytest
from rich.console import Console

from velatura.cli.progress import LiveProgress, PlainProgress, progress
from velatura.events import (
    Event,
    FileSaved,
    LeftAtOnce,
    Notice,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    PreviewSaved,
    StepFinished,
    ValidationFinished,
)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def step(number: int) -> StepFinished:
    return StepFinished(
        step=number,
        steps=100,
        loss=0.25,
        grad_norm=1.0,
        learning_rate=1e-4,
        seconds=0.5,
        images=4,
        memory=2**30,
    )


def plain() -> tuple[PlainProgress, Clock, io.StringIO]:
    clock, stream = Clock(), io.StringIO()
    return (
        PlainProgress(Console(file=stream, highlight=False, soft_wrap=True, width=40), clock),
        clock,
        stream,
    )


def test_a_log_gets_a_line_every_ten_seconds() -> None:
    listener, clock, stream = plain()
    listener(PhaseStarted(phase="scan", total=600, unit="images"))
    for second in range(1, 31):
        clock.now = float(second)
        listener(PhaseProgress(phase="scan", done=second * 20))
    listener(PhaseFinished(phase="scan", seconds=30.0))
    assert stream.getvalue().splitlines() == [
        "scan: 0/600 images",
        "scan: 200/600 images, 20.0 images/s, 20 s left",
        "scan: 400/600 images, 20.0 images/s, 10 s left",
        "scan: 600/600 images, 20.0 images/s",
        "scan: done in 30 s",
    ]


def test_steps_in_a_log() -> None:
    listener, clock, stream = plain()
    listener(PhaseStarted(phase="train", total=100, unit="steps"))
    for number in range(1, 101):
        clock.now += 0.5
        listener(step(number))
    lines = stream.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "train", "step 1/100", "step 21/100", "step 41/100", "step 61/100", "step 81/100", "step 100/100",
    ]  # fmt: skip
    assert lines[2] == "step 21/100: loss 0.2500, 8.00 img/s, 40 s left, 1.0 GiB, lr 0.0001"


def test_other_lines_do_not_put_off_those_of_the_steps() -> None:
    """A run that saves or paints more often than every ten seconds tells its loss all the same."""
    listener, clock, stream = plain()
    listener(PhaseStarted(phase="train", total=100, unit="steps"))
    for number in range(1, 42):
        clock.now += 0.5
        listener(step(number))
        if number % 10 == 0:
            listener(FileSaved(step=number, what="state", path="state/x"))
            listener(PhaseStarted(phase="previews", total=2, unit="steps"))
            listener(PhaseFinished(phase="previews", seconds=0.0))
    lines = stream.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("step")] == [
        "step 1/100", "step 21/100", "step 41/100",
    ]  # fmt: skip


STAYING: list[tuple[Event, str]] = [
    (Notice(message="adapted [model] and a very long line that is not to be broken"), "adapted [model] and"),
    (Notice(message="no caption", level="warning"), "warning: no caption"),
    (ValidationFinished(step=5, loss=0.125), "validation loss after step 5: 0.1250"),
    (ValidationFinished(step=5, loss=0.125, name="faces"), "faces loss after step 5: 0.1250"),
    (
        PreviewSaved(step=5, prompt="a dog", path="runs/x/previews/0.png"),
        "preview after step 5: runs/x/previews/0.png",
    ),
    (
        FileSaved(step=5, what="adapter", path="runs/x/adapters/x.safetensors"),
        "adapter saved: runs/x/adapters/x",
    ),
    (LeftAtOnce(), "left at once: --resume goes on from the state that was saved last, if there is one"),
    (LeftAtOnce(step=55, saved=40), "left at once: 15 steps are lost, --resume goes on after step 40"),
    (LeftAtOnce(step=41, saved=40), "left at once: 1 step is lost, --resume goes on after step 40"),
    (LeftAtOnce(step=40, saved=40), "left at once: no step is lost, --resume goes on after step 40"),
    (LeftAtOnce(step=3), "left at once: 3 steps are lost, --resume begins again at the first"),
]


@pytest.mark.parametrize(("event", "text"), STAYING)
def test_what_stays_in_a_log(event: Event, text: str) -> None:
    listener, _, stream = plain()
    listener(event)
    assert text in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize(("event", "text"), STAYING)
def test_what_stays_on_a_terminal(event: Event, text: str) -> None:
    stream = io.StringIO()
    view = LiveProgress(
        Console(file=stream, force_terminal=True, color_system=None, width=200, highlight=False)
    )
    view(event)
    assert text in stream.getvalue()


def test_the_first_step_and_phases_without_a_count_show_how_long_they_take() -> None:
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80)
    view = LiveProgress(console, clock)

    def shown() -> list[str]:
        return ["".join(s.text for s in line) for line in console.render_lines(view.live.get_renderable())]

    view(PhaseStarted(phase="loading the denoiser"))
    clock.now = 75.0
    (line,) = shown()
    assert line.startswith("loading the denoiser ")
    assert line.endswith(" 1:15")
    view(PhaseFinished(phase="loading the denoiser", seconds=75.0))
    view(PhaseStarted(phase="train", total=100, unit="steps"))
    clock.now = 80.0
    (line,) = shown()
    assert line.startswith("first step ")
    assert line.endswith(" 5 s")
    view(step(1))
    assert [line.split()[0] for line in shown()] == ["step", "loss"]


def test_what_took_no_time_is_not_worth_a_line() -> None:
    listener, _, stream = plain()
    for seconds in (0.9, 1.1):
        listener(PhaseFinished(phase="validation", seconds=seconds))
    assert stream.getvalue() == "validation: done in 1 s\n"


@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_live_view_fits_its_terminal(width: int) -> None:
    clock = Clock()
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system=None, width=width)
    view = LiveProgress(console, clock)
    view(PhaseStarted(phase="train", total=100, unit="steps"))
    view(step(1))
    view(step(2))
    view(PhaseStarted(phase="cache latents", total=50, unit="images"))
    clock.now = 2.0
    view(PhaseProgress(phase="cache latents", done=10))
    lines = console.render_lines(view.live.get_renderable())
    shown = ["".join(segment.text for segment in line) for line in lines]
    assert len(shown) == 3
    assert all(len(line) <= width for line in shown)
    if width >= 80:
        assert "cache latents" in shown[0]
        assert "10/50 images · 5.00 images/s · 8 s left" in shown[0]
        assert "2/100" in shown[1]
        assert "loss 0.2500 · 8.00 img/s · 49 s left · 1.0 GiB · lr 0.0001" in shown[2]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals of POSIX")
def test_who_leaves_at_once_gets_the_cursor_back() -> None:
    ours, theirs = os.openpty()
    with open(theirs, "w") as terminal:
        view = LiveProgress(Console(file=terminal, force_terminal=True, width=80))
        view.live.start()
        view(LeftAtOnce())
        shown = _shown(ours, until=b"\x1b[?25h")
        assert b"\x1b[?25l" in shown
        assert b"\x1b[?25h" in shown[shown.rindex(b"\x1b[?25l") :]
        view.live.stop()
    os.close(ours)


def _shown(terminal: int, until: bytes) -> bytes:
    """What a terminal was sent, which arrives in pieces and a moment later; at most ten seconds of it."""
    shown = b""
    while until not in shown and select.select([terminal], [], [], 10.0)[0]:
        shown += os.read(terminal, 10_000)
    return shown


def test_the_stream_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for forced in (False, True):
        if forced:  # colours in a file are still no terminal
            monkeypatch.setenv("FORCE_COLOR", "1")
        with progress(io.StringIO()) as listener:
            assert isinstance(listener, PlainProgress)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals of POSIX")
@pytest.mark.parametrize(("term", "kind"), [("xterm", LiveProgress), ("dumb", PlainProgress)])
def test_a_terminal_that_cannot_be_drawn_on_gets_lines(
    monkeypatch: pytest.MonkeyPatch, term: str, kind: type
) -> None:
    monkeypatch.setenv("TERM", term)
    ours, theirs = os.openpty()
    with open(theirs, "w") as terminal, progress(terminal) as listener:
        assert isinstance(listener, kind)
    os.close(ours)
