"""The states of a run on disk: which of them to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from velatura.errors import CheckpointError
from velatura.events import Events
from velatura.training.states.identity import Identity
from velatura.training.states.retention import steps_of
from velatura.training.states.state import RunState, read_identity, read_state

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What is known of a state before it is loaded; `skipped`: what is to be said about damaged ones that are newer."""

    step: int
    identity: Identity
    skipped: tuple[str, ...]


def load_state(folder: Path, events: Events, step: int | None = None) -> RunState | None:
    """The state of `step`, or else the newest that is whole; None when there is no state at all.

    Damaged ones are skipped with a warning. Raises CheckpointError when all are, or the one of `step` is.
    """
    damaged: dict[int, str] = {}
    found = _newest(folder, step, read_state, damaged)
    for line in _skipped(damaged):
        events.warn(line)
    return found[1] if found else None


def saved_before(folder: Path, step: int | None = None) -> Saved | None:
    """Of the state that `load_state` will most likely give, by its manifest: no tensor is looked at.

    Raises CheckpointError as `load_state`.
    """
    damaged: dict[int, str] = {}
    found = _newest(folder, step, read_identity, damaged)
    return Saved(step=found[0], identity=found[1], skipped=_skipped(damaged)) if found else None


def _skipped(damaged: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(f"state {step} is damaged and is skipped: {why}" for step, why in damaged.items())


def _newest(
    folder: Path, step: int | None, read: Callable[[Path], T], damaged: dict[int, str]
) -> tuple[int, T] | None:
    """The newest that can be read, or that of `step`; the others are added to `damaged`."""
    for candidate in _candidates(folder, step):
        try:
            return candidate, read(folder / f"{candidate:06d}")
        except CheckpointError as error:
            damaged[candidate] = str(error)
    if damaged:
        raise CheckpointError(_none_whole(folder, damaged, asked=step is not None))
    return None


def _candidates(folder: Path, step: int | None) -> list[int]:
    """The steps of the states that may be gone on from, newest first. Raises CheckpointError."""
    steps = steps_of(folder)
    if step is None:
        return steps[::-1]
    if step not in steps:
        there = f"there are those of steps {', '.join(map(str, steps))}" if steps else "there is none at all"
        raise CheckpointError(f"{folder} has no state of step {step}; {there}.")
    return [step]


def _none_whole(folder: Path, damaged: Mapping[int, str], *, asked: bool) -> str:
    """`asked`: whether one of the states was asked for; there may be others."""
    lines = "\n".join(f"  state {step}: {why}" for step, why in damaged.items())
    remedy = (
        "use --resume, which takes the newest that is whole"
        if asked
        else "remove that folder to begin again at step 0"
    )
    return (
        f"no state in {folder} that could be gone on from is whole:\n{lines}\nPut back a copy, or {remedy}. "
        "Adapters and models that were saved are not concerned: a run with another name can start from them "
        "(--init-from)."
    )
