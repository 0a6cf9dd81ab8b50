"""How bytes get from the machine's memory to the device beside the computation: CUDA's streams, or a plain copy."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import torch
from torch import Tensor

from velatura.errors import MemoryShortage
from velatura.plural import counted


class Link(Protocol):
    """A way to the device with an order of its own; a moment (of either side) is whatever the link makes of it."""

    def host(self, size: int) -> Tensor:
        """`size` bytes on the host, `[size]` uint8, as this link can read them fastest."""
        ...

    def send(self, source: Tensor, slot: Tensor, after: Any) -> Any:
        """Copy bytes into `slot`, not before the moment `after` (None: at once); the moment when they are there."""
        ...

    def wait(self, moment: Any) -> None:
        """Let what is computed from now on begin after the moment."""
        ...

    def mark(self) -> Any:
        """The moment when all that is computed so far is done."""
        ...


class PlainLink:
    """Copies at once: for devices that are the machine itself, or have no streams."""

    def host(self, size: int) -> Tensor:
        """Ordinary memory."""
        return torch.empty(size, dtype=torch.uint8)

    def send(self, source: Tensor, slot: Tensor, after: Any) -> None:
        """Copy, and be done."""
        slot.copy_(source)

    def wait(self, moment: Any) -> None:
        """Nothing to wait for."""

    def mark(self) -> None:
        """Everything is done already."""


class CudaLink:
    """One stream for all copies; events keep it and the computation apart."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def host(self, size: int) -> Tensor:
        """Page-locked memory of exactly this size (torch's own pinned allocator takes the next power of two).

        Raises MemoryShortage where the system locks no more.
        """
        buffer = torch.empty(size, dtype=torch.uint8)
        runtime: Any = torch.cuda.cudart()
        if int(runtime.cudaHostRegister(buffer.data_ptr(), size, 0)):
            raise MemoryShortage(
                f"{counted(size, 'byte')} for a streamed block cannot be locked in the machine's memory: "
                "free some, raise the limit (ulimit -l), or stream fewer blocks (memory.streamed)"
            )
        weakref.finalize(buffer.untyped_storage(), runtime.cudaHostUnregister, buffer.data_ptr())
        return buffer

    def send(self, source: Tensor, slot: Tensor, after: torch.cuda.Event | None) -> torch.cuda.Event:
        """Enqueue the copy on the link's own stream."""
        if after is not None:
            self.stream.wait_event(after)
        with torch.cuda.stream(self.stream):
            slot.copy_(source, non_blocking=True)
        done = torch.cuda.Event()
        done.record(self.stream)
        return done

    def wait(self, moment: torch.cuda.Event) -> None:
        """Make the current stream wait."""
        torch.cuda.current_stream(self.device).wait_event(moment)

    def mark(self) -> torch.cuda.Event:
        """An event on the current stream."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event


def link_to(device: torch.device) -> Link:
    """The best link to a device."""
    return CudaLink(device) if device.type == "cuda" else PlainLink()
