"""What autograd keeps of a streamed block: of its weights, where they lie in the block's buffer, and not the slot.

The slot holds another block by the time of the backward pass. Whatever that asks for first brings the block back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from velatura.placement.streamed.ring import Ring


@dataclass(frozen=True)
class _Weight:
    """A view of a block's buffer; sizes are in values."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


def fetched_again(ring: Ring, index: int) -> saved_tensors_hooks:
    """Around the forward pass of block `index`: its weights are fetched for its backward pass, and not kept."""

    def keep(tensor: Tensor) -> Tensor | _Weight:
        if not ring.holds(tensor):
            return tensor
        return _Weight(tensor.dtype, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    def back(kept: Tensor | _Weight) -> Tensor:
        # for what is no weight too: parts of the block may be about to be run again
        slot = ring.reach(index)
        if isinstance(kept, Tensor):
            return kept
        return slot.view(kept.dtype).as_strided(kept.shape, kept.stride, kept.offset)

    return saved_tensors_hooks(keep, back)
