"""status.json: how a run is doing, for whoever looks from outside, and how it ended."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from velatura.events import (
    Event,
    LeftAtOnce,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    RunEnded,
    StepFinished,
)
from velatura.training.lock import process_start
from velatura.training.reporting.figures import TrainingFigures

EVERY = 1.0  # seconds between two writings, at least
ALIVE_EVERY = 60.0  # seconds between two signs of life, a fraction of `lock.SILENT`


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the file says. Times are seconds since 1970; what is not known yet is None."""

    state: Literal["running", "finished", "stopped", "failed"]
    message: str = ""  # why it failed
    phase: str = ""  # the phase in hand
    phase_done: int = 0
    phase_total: int = 0  # 0 if unknown
    phase_unit: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None  # the mean of about 50 steps
    images_per_second: float | None = None
    seconds_left: float | None = None  # until the last step, previews and validation not counted
    memory: int | None = None  # bytes, at most so far
    pid: int
    process_started: float  # as `lock.process_start`: a process id is used again, with its start it is not
    host: str
    started: float
    updated: float


class Heartbeat:
    """Keeps status.json up to date: the beginning of a phase and the end at once, all else at most once a second.

    The file is written beside and renamed, so that a reader finds a whole one; it is not fsynced, since after a power
    cut nobody asks how fast the run was. While nothing happens, as in the loading of large weights, a thread renews the
    file's time, so that other machines do not take the run for gone; what the file says stays as old as it is.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._written = -math.inf
        self._phases: list[PhaseStarted] = []  # previews are a phase within the training
        self._training = TrainingFigures()
        self._status = Status(
            state="running",
            pid=os.getpid(),
            process_started=process_start(),
            host=socket.gethostname(),
            started=time.time(),
            updated=time.time(),
        )
        self._closed = threading.Event()
        threading.Thread(target=self._show_life, daemon=True).start()

    def __call__(self, event: Event) -> None:
        """Take in an event, and write where it is time to. Raises OSError."""
        at_once = isinstance(event, PhaseStarted | RunEnded | LeftAtOnce)
        match event:
            case PhaseStarted():
                self._phases.append(event)
                self._in_phase(done=0)
            case PhaseProgress() if event.phase == self._status.phase:
                self._in_phase(done=event.done)
            case PhaseFinished():
                names = [phase.phase for phase in self._phases]
                if event.phase in names:
                    del self._phases[names.index(event.phase) :]
                self._in_phase(done=self._status.step or 0)
            case StepFinished():
                self._add(event)
            case RunEnded():
                self._status = replace(self._status, state=event.how, message=event.message)
            case LeftAtOnce():
                self._status = replace(self._status, state="stopped", message="left at once")
            case _:
                return
        if at_once or self._clock() - self._written >= EVERY:
            self._write()

    def close(self) -> None:
        """End the signs of life."""
        self._closed.set()

    def _show_life(self) -> None:
        while not self._closed.wait(ALIVE_EVERY):
            with suppress(OSError):
                os.utime(self._path)

    def _in_phase(self, done: int) -> None:
        phase = self._phases[-1] if self._phases else PhaseStarted(phase="", unit="")
        self._status = replace(
            self._status,
            phase=phase.phase,
            phase_done=done if phase.phase else 0,
            phase_total=phase.total,
            phase_unit=phase.unit,
        )

    def _add(self, event: StepFinished) -> None:
        self._training.add(event)
        loss = self._training.loss.value
        self._status = replace(
            self._status,
            phase_done=event.step,
            step=event.step,
            steps=event.steps,
            loss=loss if math.isfinite(loss) else None,  # JSON has no infinities
            images_per_second=self._training.images_per_second,
            seconds_left=self._training.seconds_left,
            memory=event.memory,
        )

    def _write(self) -> None:
        self._written = self._clock()
        self._status = replace(self._status, updated=time.time())
        staged = self._path.with_name(f".{self._path.name}.partial")
        try:
            staged.write_text(json.dumps(asdict(self._status), indent=1) + "\n", encoding="utf-8")
            os.replace(staged, self._path)
        except OSError:
            with suppress(OSError):
                staged.unlink(missing_ok=True)
            raise


def read_status(path: Path) -> Status | None:
    """What a run said last; None where there is nothing that can be read as that."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Status).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
