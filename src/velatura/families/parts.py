"""The parts of a model: opening the weights of one, asking for one that must be loaded by now."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.detect import expect
from velatura.checkpoints.opening import open_checkpoint
from velatura.errors import ModelError

PartT = TypeVar("PartT")


def open_part(path: Path, kind: str) -> Checkpoint:
    """The weights at `path`, which must hold a network of `kind` (of `detect.OURS`), alone or among others.

    Raises ModelError that says what the file looks like and what was wanted.
    """
    checkpoint = open_checkpoint(path)
    expect(checkpoint, kind)
    return checkpoint


def loaded(part: PartT | None, what: str) -> PartT:
    """The part itself. Raises ModelError when it was not loaded, or was released."""
    if part is None:
        raise ModelError(f"this needs the {what}, not loaded here")
    return part
