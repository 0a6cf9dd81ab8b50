"""Inputs of recomputed blocks that wait for the backward pass in the machine's memory."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from velatura.placement.streamed.links import Link

LEAST = 2**20  # bytes; what is smaller (a modulation, a timestep) stays on the device
NO_USE = "the CPU computes in the machine's memory, where these inputs are anyway: they are only copied"


class Activations:
    """Copies to the host while a block is computed, and back while the one after it is in the backward pass.

    Buffers on the host are used again. Only inputs with a gradient go: tables that all blocks share stay.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._kept: list[weakref.ref[Kept]] = []  # in order of the forward pass
        self._free: list[Tensor] = []  # buffers on the host

    def keep(self, inputs: Sequence[Any]) -> Kept:
        """Begin to copy the inputs of a block that is about to be run."""
        kept = Kept(self, inputs)
        self._kept.append(weakref.ref(kept))
        return kept

    def ask_before(self, kept: Kept) -> None:
        """Begin to fetch what the backward pass wants after `kept`: the inputs of the block before."""
        while self._kept and self._kept.pop()() is not kept:
            pass
        while self._kept and (before := self._kept[-1]()) is None:  # of a pass that was broken off
            self._kept.pop()
        if self._kept and before is not None:
            before.ask()

    def buffer(self, size: int) -> Tensor:
        """`[>= size]` bytes on the host; one that is too small makes room for a larger one."""
        for number, free in enumerate(self._free):
            if free.numel() >= size:
                return self._free.pop(number)
        if self._free:
            self._free.pop()
        return self.link.host(size)

    def release(self, buffer: Tensor) -> None:
        """A buffer that is needed no more."""
        self._free.append(buffer)


class Kept:
    """The inputs of one block, once."""

    def __init__(self, activations: Activations, inputs: Sequence[Any]) -> None:
        self._activations = activations
        self._inputs = [_Away(activations, one) if goes(one) else one for one in inputs]

    def ask(self) -> None:
        """Begin to fetch them."""
        for one in self._inputs:
            if isinstance(one, _Away):
                one.ask()

    def back(self) -> list[Any]:
        """The inputs on the device."""
        self.ask()
        self._activations.ask_before(self)
        return [one.back() if isinstance(one, _Away) else one for one in self._inputs]


class _Away:
    """A tensor on the host."""

    def __init__(self, activations: Activations, tensor: Tensor) -> None:
        self._activations = activations
        self._link = activations.link
        self._like = torch.empty_like(tensor, device="meta", memory_format=torch.contiguous_format)
        self._device = tensor.device
        self._buffer = activations.buffer(tensor.nbytes)
        self._home = self._buffer[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        self._there = self._link.take(tensor.detach(), self._home)
        self._back: Tensor | None = None

    def ask(self) -> None:
        if self._back is None:
            self._back = torch.empty_like(self._like, device=self._device)
            self._there = self._link.send(self._home, self._back, self._link.mark(), self._there)

    def back(self) -> Tensor:
        assert self._back is not None
        self._link.wait(self._there)
        self._activations.release(self._buffer)
        return self._back.requires_grad_()


def goes(one: Any) -> bool:
    """Whether an input waits on the host."""
    return isinstance(one, Tensor) and one.requires_grad and one.nbytes >= LEAST
