"""Telling whether an error means that memory ran out: Python, torch and its CPU allocator each have their own."""

from __future__ import annotations

import psutil
import torch

_WORDS = (  # in RuntimeErrors of torch's CPU allocator on Linux and Windows, of MPS and the CUDA driver, of cuBLAS
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
)


def is_shortage(error: BaseException) -> bool:
    """True where the machine or the device had too little memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def first_line(error: BaseException) -> str:
    """What the allocator said, without torch's advice below it."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def memory_in_use(device: torch.device) -> int:
    """Bytes now: what the CUDA allocator has given out, or the process's resident set elsewhere."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)
