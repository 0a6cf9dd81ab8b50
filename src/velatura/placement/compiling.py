"""Whether compiling the repeated blocks pays, and doing it with a bounded number of graphs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import chain
from typing import Literal

import torch
from torch import nn

GRAPHS = 8  # per block; more sizes than this share one graph with a dynamic sequence length

# Rough effective speed (FLOP/s) and the share of it that compiling saves: enough to tell minutes from hours, and the
# same on every start, so that a resumed run decides as it did before.
_SPEED = {"cpu": 4e11, "cuda": 2e14}
_SAVES = {"cpu": 0.1, "cuda": 0.2}
_COST_SECONDS = {"cpu": 90.0, "cuda": 60.0}


def decide(wanted: Literal["auto"] | bool, *, flops: float, device: torch.device) -> bool:
    """'auto' compiles when the run's `flops` (forward and backward, all steps) are worth the compiler's minute."""
    if wanted != "auto":
        return wanted
    kind = device.type
    if kind not in _SPEED or (
        kind == "cpu" and shutil.which("g++") is None and shutil.which("clang++") is None
    ):
        return False
    return flops / _SPEED[kind] * _SAVES[kind] > _COST_SECONDS[kind]


def compile_blocks(blocks: Sequence[nn.Module], sizes: int) -> None:
    """Compile the forward of each block; `sizes`: how many token counts the run will see.

    Before the blocks are recomputed or streamed: both go round the compiled forward.
    """
    torch._dynamo.config.recompile_limit = max(2 * GRAPHS, 16)
    dynamic = True if sizes > GRAPHS else None
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=dynamic)


def training_flops(blocks: Sequence[nn.Module], tokens: int, images: int) -> float:
    """6 FLOP per weight and token: forward and backward of the blocks' linear layers over `images` in all."""
    held = (
        tensor for block in blocks for tensor in chain(block.parameters(), block.buffers())
    )  # fp8: buffers
    weights = sum(tensor.numel() for tensor in held if tensor.ndim == 2 and tensor.shape[1] > 1)
    return 6.0 * weights * tokens * images
