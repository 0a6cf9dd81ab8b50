"""Reading events.jsonl back as typed events."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from velatura.events import Event, PhaseFinished, StepFinished, StepLeftOut, ValidationFinished
from velatura.training.reporting.curves import Point

KINDS = {kind.__name__: kind for kind in Event.__subclasses__()}


def read_log(path: Path, *, tail: int | None = None) -> list[Event]:
    """The events of a run, or those in the last `tail` bytes; none where there is no log.

    A run that was resumed repeats the steps after its state: the later ones count. Lines that a kill cut off, and what
    is no event, are passed over.
    """
    if not path.is_file():
        return []
    events: list[Event] = []
    newest: dict[str, int] = {}
    for event in _events(_lines(path, tail)):
        kind, step = _repeatable(event)
        if kind:
            if step <= newest.get(kind, -1):
                events = [known for known in events if not _is_again(known, kind, step)]
            newest[kind] = step
        events.append(event)
    return events


def losses(events: Sequence[Event]) -> list[Point]:
    """The losses of the steps that are finite numbers."""
    steps = (event for event in events if isinstance(event, StepFinished))
    return [(event.step, event.loss) for event in steps if math.isfinite(event.loss)]


def validation_losses(events: Sequence[Event]) -> dict[str, list[Point]]:
    """The losses of the validations that are finite numbers, by their names."""
    found: dict[str, list[Point]] = {}
    for event in events:
        if isinstance(event, ValidationFinished) and math.isfinite(event.loss):
            found.setdefault(event.name, []).append((event.step, event.loss))
    return found


def phase_seconds(events: Sequence[Event]) -> dict[str, list[float]]:
    """How long each phase took, each time it was done, in the order in which they were first done."""
    found: dict[str, list[float]] = {}
    for event in events:
        if isinstance(event, PhaseFinished):
            found.setdefault(event.phase, []).append(event.seconds)
    return found


def _repeatable(event: Event) -> tuple[str, int]:
    """What a resumed run tells again, each validation by itself, and of which step; "" for what it does not."""
    match event:
        case StepFinished() | StepLeftOut():
            return type(event).__name__, event.step
        case ValidationFinished():
            return f"{type(event).__name__} {event.name}", event.step
    return "", 0


def _is_again(known: Event, kind: str, step: int) -> bool:
    known_kind, known_step = _repeatable(known)
    return known_kind == kind and known_step >= step


def _lines(path: Path, tail: int | None) -> Iterator[str]:
    with open(path, "rb") as file:
        if tail is not None and file.seek(0, os.SEEK_END) > tail:
            file.seek(-tail, os.SEEK_END)
            file.readline()  # most likely half a line
        else:
            file.seek(0)
        for line in file:
            yield line.decode("utf-8", errors="replace")


def _events(lines: Iterable[str]) -> Iterator[Event]:
    for line in lines:
        try:
            record = json.loads(line)
            yield _reader(record["kind"]).validate_python(record)
        except (ValueError, TypeError, KeyError, RecursionError):
            continue


@cache
def _reader(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(KINDS[kind])
