"""Telling whether an error means that memory ran out: Python, torch and its CPU allocator each have their own."""

from __future__ import annotations

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
