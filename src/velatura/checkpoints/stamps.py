"""What tells whether a file was touched since it was last read, and when that may be relied on.

Run as a script it answers with the stamps of the files that it is told: `packed_stamps` has a second process do so.
It imports nothing of velatura, so that this takes no time to start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain

SETTLED_AFTER = 2_000_000_000  # ns: the coarsest clock of a file system in use, that of FAT

SHARED_FROM = 20_000  # files: asking for the stamps of so many takes longer than to start a process

Stamp = tuple[int, int, int]  # size in bytes, time of modification and of change in ns


def stamp_of(status: os.stat_result) -> Stamp:
    """Size and times. The time of change cannot be set back by a copy or an unpacker, as that of modification can."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(stamp: Stamp, looked: int) -> bool:
    """Whether a file with this stamp, looked at at `looked` (`time.time_ns()`), shows every later change by another.

    A file that was touched in the two seconds before may be touched again within one tick of its clock.
    """
    return max(stamp[1:]) < looked - SETTLED_AFTER


def packed_stamps(paths: Sequence[str]) -> bytes:
    """The stamps that files have now, `packed`. Raises OSError when one is gone.

    Of many files a second process asks for one half: the system answers two at a time, Python alone cannot ask so.
    """
    if len(paths) < SHARED_FROM or (os.cpu_count() or 1) < 2:
        return _packed_now(paths)
    half = len(paths) // 2
    asked = b"\0".join(os.fsencode(path) for path in paths[half:])
    command = [sys.executable, "-I", "-S", __file__]
    try:
        helper = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:  # no process can be started here
        return _packed_now(paths)
    with helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it failed: then its half is asked for here
                helper.stdin.write(asked)
                helper.stdin.close()
            mine = _packed_now(paths[:half])
            theirs = helper.stdout.read()
        except BaseException:
            helper.kill()
            raise
    return mine + (theirs if helper.returncode == 0 else _packed_now(paths[half:]))


def packed(stamps: Iterable[Stamp]) -> bytes:
    """Stamps one after the other, as integers of 64 bits, which are read and written in no time."""
    return array("q", chain.from_iterable(stamps)).tobytes()


def _packed_now(paths: Sequence[str] | Sequence[bytes]) -> bytes:
    return packed(map(stamp_of, map(os.stat, paths)))


if __name__ == "__main__":
    sys.stdout.buffer.write(_packed_now(sys.stdin.buffer.read().split(b"\0")))
