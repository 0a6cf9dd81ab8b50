"""A tensor that is made only at the moment it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from velatura.checkpoints.checkpoint import Shape


@dataclass(frozen=True, kw_only=True)
class Pending:
    """Shape and dtype for the header now, the values from `make` later."""

    shape: Shape
    dtype: torch.dtype
    make: Callable[[], Tensor]
