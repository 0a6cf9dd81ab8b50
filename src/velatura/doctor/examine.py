"""All checks of a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from velatura.doctor.check import Check
from velatura.doctor.computing import computing
from velatura.doctor.packages import packages
from velatura.doctor.storage import storage

GROUPS: tuple[Callable[[], Iterator[Check]], ...] = (packages, computing, storage)


def examine() -> Iterator[Check]:
    """Look at Python, packages, devices, memory and disks. Imports torch; downloads nothing, leaves nothing behind."""
    for group in GROUPS:
        try:
            yield from group()
        except Exception as error:  # a machine may be broken in ways that nobody thought of
            yield Check(
                name=group.__name__,
                level="problem",
                found=f"could not be looked at: {type(error).__name__}: {error}",
                remedy="see what the message speaks of; if it is nothing on this machine, please report it",
            )
