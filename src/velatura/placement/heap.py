"""Memory of the CPU that every step frees and wants again."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Parameters of glibc's mallopt, and what it starts with (malloc.h and man mallopt)
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_FROM_THE_START = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}
_KEEP_ALL = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Within it, the process keeps what is freed on the CPU for the next allocation; afterwards it is given back.

    glibc otherwise returns large blocks to the system at once, and each step's activations are handed out again page by
    page, each page cleared: 5 to 10 % of a training step. For the whole process; nothing where the CPU does not compute
    or the C library is another one.
    """
    libc = _glibc() if device.type == "cpu" else None
    if libc is None:
        yield
        return
    _set(libc, _KEEP_ALL)
    try:
        yield
    finally:
        _set(libc, _FROM_THE_START)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if libc is not None and hasattr(libc, "gnu_get_libc_version") else None


def _set(libc: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        libc.mallopt(parameter, value)
