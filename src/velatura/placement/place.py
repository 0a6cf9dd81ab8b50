"""Where a denoiser's weights live: on the device, or streamed to it from the machine's memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn

from velatura.placement.recompute import Part, Policy, recompute, whole
from velatura.placement.shortage import is_shortage
from velatura.placement.streamed.activations import Activations
from velatura.placement.streamed.links import Link, link_to
from velatura.placement.streamed.packed import PackedBlock, block_tensors
from velatura.placement.streamed.ring import Ring, slots_for
from velatura.placement.streamed.streaming import evenly, stream

GIB = 1024**3
NO_USE = (
    "streamed weights have no use on the CPU, whose memory holds all weights anyway: they are only copied"
)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What a placement came to, in bytes: on the device for good, on the device as slots, on the host.

    `streamable`: bytes of all blocks. `trained`: the parameters in streamed blocks, and in layers ahead of them, that
    are trained; `norms`: of their newest gradients (see `stream`).
    """

    resident: int
    slots: int
    host: int
    streamable: int = 0
    rings: tuple[Ring, ...] = ()  # the last is that of the blocks, where any are streamed
    streamed: tuple[int, ...] = ()  # bytes of the blocks in it
    trained: tuple[nn.Parameter, ...] = ()
    norms: Mapping[nn.Parameter, Tensor] = field(default_factory=dict)

    def report(self) -> str:
        """A line for the user."""
        return (
            f"{'weights' if self.trained else 'frozen weights'}: {self.host / GIB:.2f} GiB are streamed from the "
            f"machine's memory through {self.slots / GIB:.2f} GiB of the device, {self.resident / GIB:.2f} GiB stay "
            "there"
        )

    @contextmanager
    def brought(self, more: float) -> Iterator[None]:
        """Within the block `more` (0 to 1) of all bytes stay on the device, too: for passes without gradients.

        They are those of blocks; layers that run ahead of them are wanted once for many such passes. Where the device
        has no room, all are streamed as ever.
        """
        if not self.streamed:
            yield
            return
        ring = self.rings[-1]
        try:
            try:
                ring.stay(brought_places(self.streamed, self.streamable, more))
            except (MemoryError, RuntimeError) as error:
                if not is_shortage(error):
                    raise
                ring.go()
            yield
        finally:
            ring.go()

    def leave(self) -> None:
        """Let all weights read as those on the host: before they are saved or looked at."""
        for ring in self.rings:
            ring.leave()


def place(
    denoiser: nn.Module,
    blocks: Sequence[nn.Module],
    ahead: Sequence[nn.Module],
    *,
    share: float,
    device: torch.device,
    link: Link | None = None,
    policy: Policy = False,
    feed_forwards: Sequence[Part] = (),
    trained: bool = False,
    updated_in_backward: bool = False,
    activations: Activations | None = None,
) -> Placed:
    """Stream `share` (0 to 1) of the blocks' bytes from the host, move all else to the device, recompute by `policy`.

    `blocks` are in order of execution; `ahead` are layers in them that are run ahead of them (see `Family.ahead`).
    Those are streamed first: where they are frozen they are needed once per step, and blocks twice. The denoiser is on
    the host with all its adapters. `policy` and `feed_forwards` are those of `recompute`. Frozen bytes are streamed,
    and with `trained` also those that are trained (see `stream` for `updated_in_backward` and `activations`): then
    streamed blocks are run again whatever the policy. Raises MemoryShortage.
    """
    link = link or link_to(device)
    ahead_slots, block_slots = slots_for(both_ways=trained and updated_in_backward)
    early = {id(tensor) for module in ahead for tensor in block_tensors(module, trained=trained)}
    sizes = [_bytes(block_tensors(module, trained=trained)) for module in ahead]
    block_sizes = [
        _bytes(t for t in block_tensors(block, trained=trained) if id(t) not in early) for block in blocks
    ]
    of_ahead, of_blocks = streamed_places(sizes, block_sizes, share)

    packed: list[PackedBlock] = []
    norms: dict[nn.Parameter, Tensor] = {}
    rings: list[Ring] = []
    again = (*ahead, *blocks) if trained else whole(blocks, policy)
    for modules, places in ((ahead, of_ahead), (blocks, of_blocks)):
        if not places:
            continue
        chosen = [modules[index] for index in places]
        without = early if modules is blocks else ()
        boxes = [PackedBlock(module, link, without, trained=trained) for module in chosen]
        kept = activations if modules is blocks else None
        slots = block_slots if modules is blocks else ahead_slots
        rings.append(
            stream(
                chosen,
                boxes,
                device,
                link,
                slots,
                again=again,
                in_parts=modules is blocks,
                updated_in_backward=updated_in_backward,
                activations=kept,
                norms=norms,
            )
        )
        packed += boxes
    away = {id(tensor) for box in packed for tensor in box.tensors}
    resident = 0
    for tensor in chain(denoiser.parameters(), denoiser.buffers()):
        if id(tensor) not in away:
            tensor.data = tensor.data.to(device)
            resident += tensor.nbytes
    besides = [blocks[index] for index in of_blocks if blocks[index] in again]
    recompute(blocks, policy, feed_forwards, besides=besides, activations=activations)
    return Placed(
        resident=resident,
        slots=sum(ring.size for ring in rings),
        host=sum(box.size for box in packed),
        streamable=sum(sizes) + sum(block_sizes),
        rings=tuple(rings),
        streamed=tuple(block_sizes[place] for place in of_blocks),
        trained=tuple(parameter for box in packed for parameter in box.trained),
        norms=norms,
    )


def streamed_places(ahead: Sequence[int], blocks: Sequence[int], share: float) -> tuple[list[int], list[int]]:
    """Which of the layers ahead and which of the blocks are streamed, by their bytes; the layers come first."""
    wanted = share * (sum(ahead) + sum(blocks))
    of_ahead = min(1.0, wanted / sum(ahead)) if sum(ahead) else 0.0
    left = max(0.0, wanted - sum(ahead))
    of_blocks = min(1.0, left / sum(blocks)) if sum(blocks) else 0.0
    return evenly(ahead, of_ahead), evenly(blocks, of_blocks)


def brought_places(streamed: Sequence[int], streamable: int, more: float) -> list[int]:
    """Which of the streamed blocks, by their bytes, are brought for `more` (0 to 1) of the `streamable` bytes."""
    return evenly(streamed, min(1.0, more * streamable / max(1, sum(streamed))))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
