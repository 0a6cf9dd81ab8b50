"""Slots on the device through which packed blocks pass, in order of execution, forwards and backwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from velatura.placement.streamed.links import Link
from velatura.placement.streamed.packed import PackedBlock

SLOTS = 2  # of the ring: one is computed with, one is filled
SLOTS_BOTH_WAYS = 3  # where new weights go back: one is emptied meanwhile
MORE_AHEAD = 2  # for layers that run ahead of their block: two are wanted at once, and the next two soon


def slots_for(*, both_ways: bool) -> tuple[int, int]:
    """How many slots the ring of the layers ahead of the blocks has, and that of the blocks."""
    slots = SLOTS_BOTH_WAYS if both_ways else SLOTS
    return slots + MORE_AHEAD, slots


@dataclass
class Traffic:
    """What a ring has done so far: visits of blocks, copies made for them, those that no one had foreseen, bytes."""

    visits: int = 0
    copies: int = 0
    misses: int = 0
    bytes: int = 0
    back: int = 0  # bytes that went back to the host


class Ring:
    """A block is fetched while the one before is computed; one whose weights changed on the device goes back.

    Where blocks are trained, a pass ends with `end`: weights may change between passes.
    """

    def __init__(
        self, blocks: Sequence[PackedBlock], device: torch.device, link: Link, slots: int = SLOTS
    ) -> None:
        self._blocks = blocks
        self._link = link
        size = max(block.size for block in blocks)
        count = min(max(slots, 2), len(blocks))
        self._slots = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(count)]
        self._storages = {slot.untyped_storage()._cdata for slot in self._slots}
        self._views: dict[tuple[int, int], list[Tensor]] = {}  # (slot, block)
        self._held: list[int | None] = [None] * count  # the block in each slot, or on its way into it
        self._there: list[Any] = [None] * count  # the moment when it has arrived
        self._left: list[Any] = [None] * count  # the moment when the slot may be overwritten
        # of blocks that need no slot: their tensors on the device, and the moment when they have arrived
        self._staying: dict[int, tuple[list[Tensor], Any]] = {}
        self._current: int | None = None
        self._changed = False  # whether the current block's weights did
        self._step = 1  # the direction in which the blocks are run
        self._trained = any(block.trained for block in blocks)
        self.returns = True  # whether a backward pass follows: not where nothing computed wants a gradient
        self.traffic = Traffic()

    @property
    def size(self) -> int:
        """Bytes that the slots take on the device."""
        return sum(slot.nbytes for slot in self._slots)

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in a slot."""
        return tensor.untyped_storage()._cdata in self._storages

    def bring(self, index: int, *, backwards: bool = False) -> None:
        """Make block `index` ready for what is computed next, and begin to fetch what will be wanted after it.

        `backwards`: that is known to be the block before.
        """
        self.traffic.visits += 1
        if index != self._current:
            self._leave()
            self._blocks[index].point(self._brought(index))
        self._turn(index, backwards=backwards)
        ahead = self._ahead(index)
        for wanted in ahead:
            if wanted not in self._held:
                self._fetch(wanted, keep=(index, *ahead))

    def stay(self, places: Sequence[int]) -> None:
        """Bring these blocks to the device, beside the slots, until `go`: for passes that change no weights."""
        self.leave()
        for index in places:
            block = self._blocks[index]
            buffer = torch.empty(block.size, dtype=torch.uint8, device=self._slots[0].device)
            there = self._link.send(block.host, buffer, self._link.mark(), block.updated)
            self._staying[index] = block.views(buffer), there
            self.traffic.copies += 1
            self.traffic.bytes += block.size

    def go(self) -> None:
        """No block stays any more, and the device has their room again."""
        self.leave()
        for _, there in self._staying.values():
            self._link.wait(there)
        self._staying.clear()

    def reach(self, index: int, *, changes: bool = False) -> Tensor:
        """In a backward pass: bring block `index`, unless it was brought last; its slot, `[size]` uint8.

        `changes`: its weights are about to change on the device.
        """
        if index != self._current:
            self.bring(index, backwards=True)
        self._changed |= changes
        return self._slots[self._held.index(index)]

    def leave(self) -> None:
        """Point every block at the host's values again."""
        self._leave()
        self._current = None

    def end(self) -> None:
        """A pass is over: the host has the newest weights, and the device none that count."""
        self.leave()
        for block in self._blocks:
            self._link.meet(block.updated)
            block.updated = None
        self._held = [None] * len(self._slots)

    def _leave(self) -> None:
        """The block that was brought last is done with: by now all that reads it has been enqueued."""
        if self._current is None:
            return
        block = self._blocks[self._current]
        block.go_home()
        if self._current in self._staying:
            return
        slot = self._held.index(self._current)
        if self._changed:
            self._changed = False
            block.updated = self._link.take(self._slots[slot][: block.size], block.host)
            self.traffic.back += block.size
            self._left[slot] = block.updated
        else:
            self._left[slot] = self._link.mark()

    def _turn(self, index: int, *, backwards: bool) -> None:
        """Which way the pass goes: a block that is run twice in a row is where it turns round."""
        if backwards:
            self._step = -1
        elif index == 0:
            self._step = 1
        elif index == self._current:
            self._step = -1
        elif self._current is not None:
            self._step = 1 if index > self._current else -1
        self._current = index

    def _ahead(self, index: int) -> list[int]:
        """What is run next and needs a slot, as far as they reach.

        At the ends the pass turns round, where the blocks still are; without a backward pass the next forward begins
        anew, with the same weights where none are trained.
        """
        count = len(self._blocks)
        reach = len(self._slots) if not self._staying else count
        wanted: Iterable[int] = (index + self._step * far for far in range(1, reach))
        if self.returns or self._trained or self._step < 0:
            wanted = (one for one in wanted if 0 <= one < count)
        else:
            wanted = (one % count for one in wanted)
        return list(islice((one for one in wanted if one not in self._staying), len(self._slots) - 1))

    def _brought(self, index: int) -> list[Tensor]:
        """The tensors of a block on the device, once they are there."""
        if index in self._staying:
            views, there = self._staying[index]
            self._link.wait(there)
            return views
        if index not in self._held:
            self.traffic.misses += 1
            self._fetch(index, keep=())
        slot = self._held.index(index)
        self._link.wait(self._there[slot])
        return self._seen_in(slot, index)

    def _fetch(self, index: int, keep: Sequence[int]) -> None:
        slot = self._free_slot(index, keep)
        block = self._blocks[index]
        self._held[slot] = index
        self._there[slot] = self._link.send(
            block.host, self._slots[slot][: block.size], self._left[slot], block.updated
        )
        self.traffic.copies += 1
        self.traffic.bytes += block.size

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
