"""What tells whether a file was touched since it was last read, and when that may be relied on."""

from __future__ import annotations

import os

SETTLED_AFTER = 2_000_000_000  # ns: the coarsest clock of a file system in use, that of FAT

Stamp = tuple[int, int, int]  # size in bytes, time of modification and of change in ns


def stamp_of(status: os.stat_result) -> Stamp:
    """Size and times. The time of change cannot be set back by a copy or an unpacker, as that of modification can."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(stamp: Stamp, looked: int) -> bool:
    """Whether a file with this stamp, looked at at `looked` (`time.time_ns()`), shows every later change by another.

    A file that was touched in the two seconds before may be touched again within one tick of its clock.
    """
    return max(stamp[1:]) < looked - SETTLED_AFTER
