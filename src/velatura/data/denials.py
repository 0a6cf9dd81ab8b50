"""Data that lies where it may not be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from velatura.errors import DataError


@contextmanager
def denial_told() -> Iterator[None]:
    """Raise DataError where the system refuses so much as to say what a path is: a folder above may not be entered."""
    try:
        yield
    except PermissionError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}. Give another place, or the right to read this one "
            "and to enter every folder above it."
        ) from error
