"""How bytes get from the machine's memory to the device and back beside the computation: CUDA's streams, or copies."""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from velatura.errors import MemoryShortage
from velatura.plural import counted

# tensors on their way to the host that stay on the device, so that no computation waits for the newest
LEAVING = 2


class Link(Protocol):
    """A way to the device and back with an order of its own; a moment is whatever the link makes of it, None: now."""

    def host(self, size: int) -> Tensor:
        """`size` bytes on the host, `[size]` uint8, as this link can read and write them fastest."""
        ...

    def send(self, source: Tensor, slot: Tensor, *after: Any) -> Any:
        """Copy from the host into `slot`, not before these moments; the moment when all is there."""
        ...

    def take(self, source: Tensor, home: Tensor) -> Any:
        """Copy from the device to the host, once what is computed so far is done; the moment when all is there."""
        ...

    def wait(self, moment: Any) -> None:
        """Let what is computed from now on begin after the moment."""
        ...

    def meet(self, moment: Any) -> None:
        """Return after the moment: the host's memory can be read then."""
        ...

    def mark(self) -> Any:
        """The moment when all that is computed so far is done."""
        ...


class PlainLink:
    """Copies at once: for devices that are the machine itself, or have no streams."""

    def host(self, size: int) -> Tensor:
        """Ordinary memory."""
        return torch.empty(size, dtype=torch.uint8)

    def send(self, source: Tensor, slot: Tensor, *after: Any) -> None:
        """Copy, and be done."""
        slot.copy_(source)

    def take(self, source: Tensor, home: Tensor) -> None:
        """Copy, and be done."""
        home.copy_(source)

    def wait(self, moment: Any) -> None:
        """Nothing to wait for."""

    def meet(self, moment: Any) -> None:
        """Nothing to wait for."""

    def mark(self) -> None:
        """Everything is done already."""


class Leaving:
    """What is on its way to the host: it stays on the device until the computation waits for its copy.

    Then the memory can be used again at once, in the computation's own order. Were it given away when the copy is seen
    to be done, all that the program enqueues ahead of the device would be held at once.
    """

    def __init__(self, wait: Callable[[Any], None]) -> None:
        self._wait = wait
        self._held: deque[tuple[Tensor, Any]] = deque()

    def add(self, source: Tensor, moment: Any) -> None:
        """One more; of those before, the last few stay."""
        self._held.append((source, moment))
        while len(self._held) > LEAVING:
            _, earlier = self._held.popleft()
            self._wait(earlier)


class CudaLink:
    """A stream for the copies of each direction, which do not slow each other; events keep them in order."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.up = torch.cuda.Stream(device)
        self.down = torch.cuda.Stream(device)
        self._leaving = Leaving(self.wait)
        self._coming: dict[int, tuple[torch.cuda.Event, Tensor]] = {}  # kept while a copy may write to them

    def host(self, size: int) -> Tensor:
        """Page-locked memory of this size (torch's own pinned allocator takes the next power of two).

        It shares no page with other memory: pages are locked whole, and once. Raises MemoryShortage where the system
        locks no more.
        """
        page = mmap.PAGESIZE
        locked = -(-size // page) * page
        buffer = torch.empty(locked + page, dtype=torch.uint8)
        start = -buffer.data_ptr() % page
        runtime: Any = torch.cuda.cudart()
        if int(runtime.cudaHostRegister(buffer.data_ptr() + start, locked, 0)):
            _forget_error(self.device)
            raise MemoryShortage(
                f"{counted(size, 'byte')} cannot be locked in the machine's memory for copies to the device: "
                "free some, raise the limit (ulimit -l), or stream fewer blocks (memory.streamed)"
            )
        release = weakref.finalize(
            buffer.untyped_storage(), _unlock, runtime, self.device, buffer.data_ptr() + start
        )
        release.atexit = False  # the system does it then
        return buffer[start : start + size]

    def send(self, source: Tensor, slot: Tensor, *after: torch.cuda.Event | None) -> torch.cuda.Event:
        """Enqueue the copy on the stream of this direction."""
        for key in [key for key, (moment, _) in self._coming.items() if moment.query()]:
            del self._coming[key]  # of a pass that was broken off: nobody waited
        done = self._copy(source, slot, self.up, after)
        self._coming[id(done)] = done, slot
        return done

    def take(self, source: Tensor, home: Tensor) -> torch.cuda.Event:
        """Enqueue the copy on the stream of this direction."""
        done = self._copy(source, home, self.down, (self.mark(),))
        self._leaving.add(source, done)
        return done

    def wait(self, moment: torch.cuda.Event | None) -> None:
        """Make the current stream wait."""
        if moment is not None:
            torch.cuda.current_stream(self.device).wait_event(moment)
            self._coming.pop(id(moment), None)

    def meet(self, moment: torch.cuda.Event | None) -> None:
        """Make this thread wait."""
        if moment is not None:
            moment.synchronize()

    def mark(self) -> torch.cuda.Event:
        """An event on the current stream."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _copy(
        self,
        source: Tensor,
        target: Tensor,
        stream: torch.cuda.Stream,
        after: tuple[torch.cuda.Event | None, ...],
    ) -> torch.cuda.Event:
        for moment in after:
            if moment is not None:
                stream.wait_event(moment)
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        done = torch.cuda.Event()
        done.record(stream)
        return done


def _unlock(runtime: Any, device: torch.device, address: int) -> None:
    with suppress(RuntimeError):
        torch.cuda.synchronize(device)  # a copy may be under way, of a pass that was broken off
    runtime.cudaHostUnregister(address)


def _forget_error(device: torch.device) -> None:
    """CUDA tells an error again at the next kernel, whoever starts it."""
    with suppress(RuntimeError):
        torch.zeros(1, device=device)


def link_to(device: torch.device) -> Link:
    """The best link to a device."""
    return CudaLink(device) if device.type == "cuda" else PlainLink()
