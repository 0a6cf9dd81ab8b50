"""Listeners that keep what went on: one line of JSON per event, TensorBoard scalars, the status of the moment.

A log is never worth a run: where the disk refuses, the user is warned once, and the run goes on.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from velatura.events import Event, Events, PhaseProgress
from velatura.training.folder import RunFolder
from velatura.training.reporting.heartbeat import Heartbeat
from velatura.training.reporting.scalars import scalars_of


class Log(Protocol):
    """Writes events to a file. Raises OSError where the disk refuses; the file then holds what it held."""

    def __call__(self, event: Event) -> None:
        """Write an event, if it is of the kind that this log holds."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Logs:
    """All logs of a run as one listener, which no full disk can stop; `events` gets the warnings.

    `more`: logs besides those that every run has, each with the place that it writes to.
    """

    def __init__(self, folder: RunFolder, events: Events, more: Mapping[Path, Log] | None = None) -> None:
        self._events = events
        self._refused: set[Path] = set()
        self._logs: dict[Path, Log] = {}
        kinds: dict[Path, Callable[[Path], Log]] = {
            folder.events: JsonLog,
            folder.tensorboard: TensorBoardLog,
            folder.status: Heartbeat,
        }
        for path, kind in kinds.items():
            with self._forgiven(path):
                self._logs[path] = kind(path)
        self._logs.update(more or {})

    def __call__(self, event: Event) -> None:
        """Write the event to each log that can take it."""
        for path, log in self._logs.items():
            with self._forgiven(path):
                log(event)

    def close(self) -> None:
        """Close all."""
        for path, log in self._logs.items():
            with self._forgiven(path):
                log.close()

    @contextmanager
    def _forgiven(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if path not in self._refused:
                self._refused.add(path)
                self._events.warn(
                    f"{path} cannot be written: {error.strerror or error}. The run goes on, and what happens "
                    "meanwhile is missing there."
                )


class JsonLog:
    """Appends every event to a file; each line is complete or absent after a kill."""

    def __init__(self, path: Path) -> None:
        self.file = _Records(path)
        if self.file.size and not _ends_with_newline(path):
            self.file.append(b"\n")  # the last run was killed in the middle of a line

    def __call__(self, event: Event) -> None:
        """Write one line; progress inside phases is left out."""
        if not isinstance(event, PhaseProgress):
            record = {"time": round(time.time(), 3), **event.record()}
            self.file.append((json.dumps(_plain(record)) + "\n").encode())

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class TensorBoardLog:
    """Loss, gradient norm, learning rate, images per second and validation losses, as TensorBoard reads them.

    torch's SummaryWriter writes from a thread of its own, whose errors reach nobody in time.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self.file = _Records(folder / name)
        self._write(file_version="brain.Event:2")

    def __call__(self, event: Event) -> None:
        """Write the scalars of a step or a validation."""
        if values := scalars_of(event):
            self._scalars(values, int(values.pop("step")))

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # slow to import: only when a run logs

        entries = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step=step, summary=Summary(value=entries))

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.summary.writer.record_writer import RecordWriter

        framed = io.BytesIO()
        RecordWriter(framed).write(Record(wall_time=time.time(), **fields).SerializeToString())
        self.file.append(framed.getvalue())


class _Records:
    """A file that only grows, by whole records: one that does not fit leaves nothing behind."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the run
        self.size = self.file.tell()

    def append(self, record: bytes) -> None:
        """Write a record in one piece. Raises OSError."""
        try:
            written = self.file.write(record)
            if written < len(record):  # a disk takes what it has room for, and does not complain
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):
                self.file.truncate(self.size)
            raise
        self.size += len(record)

    def close(self) -> None:
        self.file.close()


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _plain(value: Any) -> Any:
    """JSON has no infinities: they become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value
