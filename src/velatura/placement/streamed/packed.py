"""The tensors of one block in one buffer of the machine's memory, so that a visit to the device is one copy."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from itertools import chain
from typing import Any

from torch import Tensor, nn

from velatura.placement.streamed.links import Link

ALIGNMENT = 256  # bytes; what CUDA's allocator gives


class PackedBlock:
    """Tensors of a block side by side in one buffer on the host; they can be pointed at copies of it.

    `updated`: the moment when the host has the newest values; None where it has them.
    """

    def __init__(
        self, block: nn.Module, link: Link, without: Container[int] = (), *, trained: bool = False
    ) -> None:
        """`without`: ids of tensors that are placed otherwise; `trained`: with the parameters that are trained."""
        own = [one for one in block_tensors(block, trained=trained) if id(one) not in without]
        self.trained = [one for one in own if isinstance(one, nn.Parameter) and one.requires_grad]
        self.tensors: list[Tensor] = [*self.trained, *(one for one in own if not one.requires_grad)]
        self._offsets: list[int] = []
        self.size = self.trained_size = 0
        for number, tensor in enumerate(self.tensors, start=1):
            self._offsets.append(self.size)
            self.size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
            if number == len(self.trained):
                self.trained_size = self.size
        self.host = link.host(self.size)
        self.updated: Any = None
        self._home = self.views(self.host)
        for tensor, view in zip(self.tensors, self._home, strict=True):
            view.copy_(tensor.detach())
        self.go_home()

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The block's tensors as they lie in a buffer of bytes; those that are trained lie first."""
        return [
            buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for start, tensor in zip(self._offsets, self.tensors, strict=False)
            if start < buffer.numel()
        ]

    def point(self, views: Sequence[Tensor]) -> None:
        """Compute with these values from now on."""
        for tensor, view in zip(self.tensors, views, strict=True):
            tensor.data = view

    def go_home(self) -> None:
        """Let the tensors be those on the host: whoever saves or looks at them reads the true values."""
        self.point(self._home)


def block_tensors(block: nn.Module, *, trained: bool) -> Iterator[Tensor]:
    """Parameters and buffers, each once; `trained`: with those that a gradient reaches."""
    seen: set[int] = set()
    for tensor in chain(block.parameters(), block.buffers()):
        if (trained or not tensor.requires_grad) and tensor.numel() and id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def frozen_tensors(block: nn.Module) -> Iterator[Tensor]:
    """Those that no gradient reaches."""
    return block_tensors(block, trained=False)
