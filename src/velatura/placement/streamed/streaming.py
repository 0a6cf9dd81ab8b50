"""Blocks that live in the machine's memory and visit the device when they are run.

All tensors of a block are packed in one buffer, so a visit is one copy; it goes into a slot of a small ring while the
block before is computed. Gradients need a block twice, and no autograd graph may hold a slot's storage meanwhile. So
what it keeps of frozen weights is their place, and they are fetched again (see `fetched`), or the block's forward is
run again in the backward pass (as in `recompute`), which brings it back. Frozen weights are never copied back. Under an
adapter what is trained in a block (LoRA layers) stays on the device; where the blocks themselves are trained, gradients
or new weights go to the host (see `gradients`), and they are always run again: autocast's copies of all weights would
be kept otherwise.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from velatura.placement.recompute import casts_not_kept, run_again
from velatura.placement.streamed.activations import Activations
from velatura.placement.streamed.fetched import fetched_again
from velatura.placement.streamed.gradients import TrainedBlocks
from velatura.placement.streamed.links import Link
from velatura.placement.streamed.packed import PackedBlock
from velatura.placement.streamed.ring import SLOTS, Ring


class _Streamed:
    """A block's forward, brought to the device first; for its backward it is run `again`, or fetched again."""

    def __init__(
        self,
        block: nn.Module,
        ring: Ring,
        index: int,
        activations: Activations | None,
        *,
        again: bool,
        in_parts: bool,
    ) -> None:
        self.forward = block.forward
        self._ring = ring
        self._index = index
        self._activations = activations
        self._again = again
        self._in_parts = in_parts

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self._visited(*args, **kwargs)
        self._ring.returns = any(
            isinstance(one, Tensor) and one.requires_grad
            for one in (out if isinstance(out, tuple) else (out,))
        )
        return out

    def _visited(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._run(*args, **kwargs)
        if self._again:
            return run_again(self._run, args, kwargs, self._activations)
        with fetched_again(self._ring, self._index, in_parts=self._in_parts):
            return self._run(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        self._ring.bring(self._index)
        return self.forward(*args, **kwargs)


class _Trained:
    """The same for blocks that are trained, `last` of which ends a pass without gradients."""

    def __init__(self, streamed: _Streamed, trained: TrainedBlocks, *, first: bool, last: bool) -> None:
        self._streamed = streamed
        self._trained = trained
        self._first = first
        self._last = last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._first:
            self._trained.begin()
        with casts_not_kept():
            out = self._streamed(*args, **kwargs)
        if self._last and not torch.is_grad_enabled():
            self._trained.end()
        return out


def stream(
    blocks: Sequence[nn.Module],
    packed: Sequence[PackedBlock],
    device: torch.device,
    link: Link,
    slots: int = SLOTS,
    *,
    again: Container[nn.Module] = (),
    in_parts: bool = True,
    updated_in_backward: bool = False,
    activations: Activations | None = None,
    norms: dict[nn.Parameter, Tensor] | None = None,
) -> Ring:
    """Let the blocks, which are run in this order, visit the device one after the other.

    `slots`: of the ring, at least 2. `again`: blocks that are run again in the backward pass; where any are trained,
    all are. `in_parts`: parts of the others may be. `updated_in_backward`: what is trained in the packed blocks gets
    its update as soon as its gradient is there. `activations`: where the inputs of blocks that are run again wait, if
    not on the device. `norms`: to hold the norm of each newest gradient that went to the host, as a tensor on the
    device. A block's forward is compiled before, not after.
    """
    ring = Ring(packed, device, link, slots)
    any_trained = any(box.trained for box in packed)
    streamed = [
        _Streamed(block, ring, index, activations, again=any_trained or block in again, in_parts=in_parts)
        for index, block in enumerate(blocks)
    ]
    if not any_trained:
        for block, run in zip(blocks, streamed, strict=True):
            block.forward = run
        return ring
    trained = TrainedBlocks(
        ring,
        packed,
        link,
        updated_in_backward=updated_in_backward,
        norms={} if norms is None else norms,
    )
    for index, (block, run) in enumerate(zip(blocks, streamed, strict=True)):
        block.forward = _Trained(run, trained, first=index == 0, last=index == len(blocks) - 1)
    return ring


def evenly(sizes: Sequence[int], share: float) -> list[int]:
    """Positions of the blocks to stream: about `share` (0 to 1) of all bytes, spread over the whole depth.

    Between two visits there are resident blocks then, whose computation hides the copies.
    """
    chosen: list[int] = []
    total, taken, passed = sum(sizes), 0, 0
    for index, size in enumerate(sizes):
        passed += size
        if taken + size / 2 <= share * passed or share >= 1:
            chosen.append(index)
            taken += size
    return chosen if total else []
