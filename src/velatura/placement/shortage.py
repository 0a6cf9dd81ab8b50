"""Telling whether an error means that memory ran out: Python, torch and its CPU allocator each have their own."""

from __future__ import annotations

import torch

_WORDS = ("can't allocate memory", "not enough memory")  # in the RuntimeError of torch's CPU allocator


def is_shortage(error: BaseException) -> bool:
    """True where the machine or the device had too little memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
