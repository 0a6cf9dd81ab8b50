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

from velatura.events import Event, StepFinished, ValidationFinished

KINDS = {kind.__name__: kind for kind in Event.__subclasses__()}


def read_log(path: Path, *, tail: int | None = None) -> list[Event]:
    """The events of a run, or those in the last `tail` bytes; none where there is no log.

    A run that was resumed repeats the steps after its state: the later ones count. Lines that a kill cut off, and what
    is no event, are passed over.
    """
    if not path.is_file():
        return []
    events: list[Event] = []
    newest: dict[type, int] = {}
    for event in _events(_lines(path, tail)):
        if isinstance(event, StepFinished | ValidationFinished):
            kind, step = type(event), event.step
            if step <= newest.get(kind, -1):
                events = [known for known in events if not (isinstance(known, kind) and known.step >= step)]
            newest[kind] = step
        events.append(event)
    return events


def losses(events: Sequence[Event], kind: type[StepFinished | ValidationFinished]) -> list[tuple[int, float]]:
    """(step, loss) of the events of one kind, where the loss is a finite number."""
    return [
        (event.step, event.loss) for event in events if isinstance(event, kind) and math.isfinite(event.loss)
    ]


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
