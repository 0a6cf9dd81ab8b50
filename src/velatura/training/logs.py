"""Listeners that keep what went on: one line of JSON per event, and TensorBoard scalars."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from velatura.errors import StorageError
from velatura.events import Event, PhaseProgress, StepFinished, ValidationFinished


class JsonLog:
    """Appends every event to a file; each line is complete or absent after a kill. Raises StorageError."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the run
        if self.file.tell() and not _ends_with_newline(path):
            self.file.write(b"\n")  # the last run was killed in the middle of a line

    def __call__(self, event: Event) -> None:
        """Write one line; progress inside phases is left out."""
        if isinstance(event, PhaseProgress):
            return
        record = {"time": round(time.time(), 3), **event.record()}
        try:
            self.file.write((json.dumps(_plain(record)) + "\n").encode())
        except OSError as error:
            raise StorageError(f"cannot write {self.file.name}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


class TensorBoardLog:
    """Loss, gradient norm, learning rate, images per second and validation loss."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import (
            SummaryWriter,
        )  # imports the tensorboard package: only when a run starts

        self.writer: Any = SummaryWriter(str(folder))

    def __call__(self, event: Event) -> None:
        """Write the scalars of a step or a validation."""
        if isinstance(event, StepFinished):
            scalars = {
                "loss/train": event.loss,
                "grad_norm": event.grad_norm,
                "learning_rate": event.learning_rate,
                "images_per_second": event.images / max(event.seconds, 1e-9),
                **{f"terms/{name}": value for name, value in event.terms.items()},
            }
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, event.step)
        elif isinstance(event, ValidationFinished):
            self.writer.add_scalar("loss/validation", event.loss, event.step)

    def close(self) -> None:
        """Write out what is buffered."""
        self.writer.close()


def _plain(value: Any) -> Any:
    """JSON has no infinities: they become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value
