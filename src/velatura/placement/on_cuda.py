"""Whether operations are those of CUDA: on its tensors, and in plans for what is not here, whose tensors say "cpu"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_planned = False


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Within the block all is done as on CUDA, wherever the tensors say that they are."""
    global _planned
    before, _planned = _planned, True
    try:
        yield
    finally:
        _planned = before


def is_on_cuda(device: torch.device) -> bool:
    """Whether what is computed there is to be done as CUDA likes it."""
    return _planned or device.type == "cuda"
