"""Frozen blocks that live in the machine's memory and visit the device when they are run.

One way only: a frozen weight is never copied back. All frozen tensors of a block are packed in one buffer, so a visit
is one copy; it goes into a slot of a small ring while the block before is computed. Gradients need a block twice:
its forward is run again in the backward pass (as in `recompute`), which brings it back, so that no autograd graph ever
holds a slot's storage. What is trained in a block (LoRA layers) stays on the device.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from velatura.placement.links import Link

ALIGNMENT = 256  # bytes; what CUDA's allocator gives
SLOTS = 2  # of the ring: one is computed with, one is filled


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a ring has done so far: visits of blocks, copies made for them, those that no one had foreseen, bytes."""

    visits: int = 0
    copies: int = 0
    misses: int = 0
    bytes: int = 0


class PackedBlock:
    """The frozen tensors of one block, side by side in one buffer on the host; they can be pointed at copies of it."""

    def __init__(self, block: nn.Module, link: Link, without: Container[int] = ()) -> None:
        """`without`: ids of frozen tensors that are placed otherwise."""
        self.tensors = [tensor for tensor in frozen_tensors(block) if id(tensor) not in without]
        self._offsets: list[int] = []
        size = 0
        for tensor in self.tensors:
            self._offsets.append(size)
            size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        self.size = size
        self.host = link.host(size)
        self._home = self.views(self.host)
        for tensor, view in zip(self.tensors, self._home, strict=True):
            view.copy_(tensor)
        self.go_home()

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The block's tensors as they lie in a buffer `[>= size]` of bytes."""
        return [
            buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for start, tensor in zip(self._offsets, self.tensors, strict=True)
        ]

    def point(self, views: Sequence[Tensor]) -> None:
        """Compute with these values from now on."""
        for tensor, view in zip(self.tensors, views, strict=True):
            tensor.data = view

    def go_home(self) -> None:
        """Let the tensors be those on the host: whoever saves or looks at them reads the true values."""
        self.point(self._home)


class Ring:
    """Slots on the device through which packed blocks pass, in order of execution, forwards and backwards."""

    def __init__(
        self, blocks: Sequence[PackedBlock], device: torch.device, link: Link, slots: int = SLOTS
    ) -> None:
        self._blocks = blocks
        self._link = link
        size = max(block.size for block in blocks)
        count = min(max(slots, 2), len(blocks))
        self._slots = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(count)]
        self._views: dict[tuple[int, int], list[Tensor]] = {}  # (slot, block)
        self._held: list[int | None] = [None] * count  # the block in each slot, or on its way into it
        self._there: list[Any] = [None] * count  # the moment when it has arrived
        self._left: list[Any] = [None] * count  # the moment when the slot may be overwritten
        self._current: int | None = None
        self._step = 1  # the direction in which the blocks are run
        self.traffic = Traffic()

    @property
    def size(self) -> int:
        """Bytes that the slots take on the device."""
        return sum(slot.nbytes for slot in self._slots)

    def bring(self, index: int) -> None:
        """Make block `index` ready for what is computed next, and begin to fetch what will be wanted after it."""
        visits, misses = self.traffic.visits + 1, self.traffic.misses
        if index != self._current:
            self._leave()
            if index not in self._held:
                misses += 1
                self._fetch(index, keep=())
            slot = self._held.index(index)
            self._link.wait(self._there[slot])
            self._blocks[index].point(self._seen_in(slot, index))
        self._turn(index)
        self.traffic = Traffic(
            visits=visits, copies=self.traffic.copies, misses=misses, bytes=self.traffic.bytes
        )
        ahead = self._ahead(index)
        for wanted in ahead:
            if wanted not in self._held:
                self._fetch(wanted, keep=(index, *ahead))

    def leave(self) -> None:
        """Point every block at the host's values again."""
        self._leave()
        self._current = None

    def _leave(self) -> None:
        """The block that was brought last is done with: by now all that reads it has been enqueued."""
        if self._current is not None:
            self._blocks[self._current].go_home()
            self._left[self._held.index(self._current)] = self._link.mark()

    def _turn(self, index: int) -> None:
        """Which way the pass goes: a block that is run twice in a row is where it turns round."""
        if index == 0:
            self._step = 1
        elif index == self._current:
            self._step = -1
        elif self._current is not None:
            self._step = 1 if index > self._current else -1
        self._current = index

    def _ahead(self, index: int) -> list[int]:
        """What is run next, as far as the slots reach.

        At the ends the pass turns round, where the blocks still are; without gradients there is no backward pass, and
        the next forward begins anew.
        """
        wanted = [index + self._step * far for far in range(1, len(self._slots))]
        if torch.is_grad_enabled():
            return [one for one in wanted if 0 <= one < len(self._blocks)]
        return [one % len(self._blocks) for one in wanted]

    def _fetch(self, index: int, keep: Sequence[int]) -> None:
        slot = self._free_slot(index, keep)
        block = self._blocks[index]
        self._held[slot] = index
        self._there[slot] = self._link.send(block.host, self._slots[slot][: block.size], self._left[slot])
        before = self.traffic
        self.traffic = Traffic(
            visits=before.visits,
            copies=before.copies + 1,
            misses=before.misses,
            bytes=before.bytes + block.size,
        )

    def _free_slot(self, index: int, keep: Sequence[int]) -> int:
        """An empty one, or that of the block farthest away, which will be wanted last."""

        def distance(slot: int) -> int:
            held = self._held[slot]
            return len(self._blocks) if held is None else abs(held - index)

        return max(
            (slot for slot, held in enumerate(self._held) if held is None or held not in keep), key=distance
        )

    def _seen_in(self, slot: int, index: int) -> list[Tensor]:
        if (slot, index) not in self._views:
            self._views[slot, index] = self._blocks[index].views(self._slots[slot])
        return self._views[slot, index]


class _Streamed:
    """A block's forward, brought to the device first; while gradients are on it is run again for its backward."""

    def __init__(self, block: nn.Module, ring: Ring, index: int) -> None:
        self.forward = block.forward
        self._ring = ring
        self._index = index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._run(*args, **kwargs)
        return checkpoint(self._run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        self._ring.bring(self._index)
        return self.forward(*args, **kwargs)


def stream(
    blocks: Sequence[nn.Module],
    packed: Sequence[PackedBlock],
    device: torch.device,
    link: Link,
    slots: int = SLOTS,
) -> Ring:
    """Let the blocks, which are run in this order, visit the device one after the other.

    `slots`: of the ring, at least 2. A block's forward is compiled before, not after.
    """
    ring = Ring(packed, device, link, slots)
    for index, block in enumerate(blocks):
        block.forward = _Streamed(block, ring, index)
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


def frozen_tensors(block: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers that no gradient reaches, each once."""
    seen: set[int] = set()
    for tensor in chain(block.parameters(), block.buffers()):
        if not tensor.requires_grad and tensor.numel() and id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor
