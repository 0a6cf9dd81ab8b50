"""What autograd keeps of a streamed block: of its weights, where they lie in the block's buffer, and not the slot.

The slot holds another block by the time of the backward pass, and what is asked for first brings this one back.
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


def fetched_again(ring: Ring, index: int, *, in_parts: bool) -> saved_tensors_hooks:
    """Around the forward pass of block `index`: its weights are fetched for its backward pass, and not kept.

    `in_parts`: parts of the block may be run again in the backward pass. Their inputs are kept here, so that not only
    weights, but whatever is asked for brings the block.
    """

    def keep(tensor: Tensor) -> Tensor | _Weight:
        if not ring.holds(tensor):
            return tensor
        return _Weight(tensor.dtype, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    def back(kept: Tensor | _Weight) -> Tensor:
        if isinstance(kept, Tensor):
            if in_parts:
                ring.reach(index)
            return kept
        return ring.reach(index).view(kept.dtype).as_strided(kept.shape, kept.stride, kept.offset)

    return saved_tensors_hooks(keep, back)
