"""Whole trainings of the tiny FLUX on six pictures."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from velatura.checkpoints.reader import TensorFile
from velatura.data.progress import Phase
from velatura.events import Event, StepFinished
from velatura.training.run import Outcome, train
from velatura.training.states.resuming import Resume

from ..tiny import Log, recipe, write_pictures

SIZES = [(64, 64)] * 4 + [(96, 48)] * 2  # two buckets: 64x64 and 80x48


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training left behind."""

    outcome: Outcome
    folder: Path
    log: Log

    @property
    def losses(self) -> list[float]:
        return [event.loss for event in self.log.of(StepFinished)]

    def state(self, name: str = "values") -> dict[str, Tensor]:
        """A file of the newest state."""
        newest = sorted((self.folder / "state").iterdir())[-1]
        return tensors(newest / f"{name}.safetensors")


Train = Callable[..., Run]


def tensors(path: Path) -> dict[str, Tensor]:
    with TensorFile(path) as file:
        return {key: file.read(key) for key in file}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Same names, same bits."""
    assert a
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "photos", SIZES)


@pytest.fixture
def run(tmp_path: Path, photos: Path, tiny_model: Path) -> Train:
    """Train by a recipe of plain tables, in the folder `into`; Ctrl-C after step `stop_after`."""

    def start(
        *,
        into: str = "runs",
        resume: bool | Resume = False,
        stop_after: int | None = None,
        dry_run: bool = False,
        watch: Callable[[Event], None] | None = None,
        **sections: Any,
    ) -> Run:
        sections["output"] = {"folder": str(tmp_path / into), **sections.get("output", {})}
        wanted, log = recipe(tmp_path, tiny_model, **sections), Log()

        def interrupt(event: Event) -> None:
            if isinstance(event, StepFinished) and event.step == stop_after:
                signal.raise_signal(signal.SIGINT)

        log.events.listeners += [interrupt] if watch is None else [watch, interrupt]
        torch.seed()  # at random: nothing may depend on torch's own generator
        how = resume if isinstance(resume, Resume) else Resume() if resume else None
        outcome = train(wanted, tmp_path, resume=how, dry_run=dry_run, events=log.events)
        return Run(outcome=outcome, folder=tmp_path / into / wanted.name, log=log)

    return start


@pytest.fixture
def interrupted_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Ctrl-C once, after so many units of the phase of this name."""

    def interrupt(name: str, after: int) -> None:
        advance, left = Phase.advance, iter((True,))

        def counting(phase: Phase, count: int = 1) -> None:
            advance(phase, count)
            if (phase.name, phase.done) == (name, after) and next(left, False):
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(Phase, "advance", counting)

    return interrupt
