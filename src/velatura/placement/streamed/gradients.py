"""The backward pass of streamed blocks that are trained: their gradients leave the device, or their weights change."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from velatura.placement.streamed.links import Link
from velatura.placement.streamed.packed import PackedBlock
from velatura.placement.streamed.ring import Ring


class TrainedBlocks:
    """Between two passes weights and gradients are on the host, whole; within one, the device has those in use.

    A gradient goes to the host as soon as it is whole; what earlier passes of a step left there comes to the device
    first and is added up there. `norms` hold its norm, which the device is faster to take. Where `updated_in_backward`,
    someone uses and frees it at once instead, and the new weights go back.
    """

    def __init__(
        self,
        ring: Ring,
        blocks: Sequence[PackedBlock],
        link: Link,
        *,
        updated_in_backward: bool,
        norms: dict[nn.Parameter, Tensor],
    ) -> None:
        self._ring = ring
        self._link = link
        self._blocks = blocks
        self._updated_in_backward = updated_in_backward
        self._norms = norms
        self._homes: dict[int, list[Tensor]] = {}  # of a block's gradients
        self._earlier: set[nn.Parameter] = set()  # those that have a gradient of earlier passes
        self._gone: dict[
            nn.Parameter, tuple[Tensor, Any]
        ] = {}  # where this pass's gradients are, and from when
        self._ends = False  # whether this backward pass knows what to do at its end
        # torch keeps hooks where no garbage collector sees them
        before, after = weakref.WeakMethod(self._before), weakref.WeakMethod(self._after)
        for index, block in enumerate(blocks):
            for number, parameter in enumerate(block.trained):
                parameter.register_hook(partial(_run, before, index, number))
                if not updated_in_backward:
                    parameter.register_post_accumulate_grad_hook(partial(_run, after, index, number))

    def begin(self) -> None:
        """Before a forward pass; one that was broken off counts no more."""
        self._ring.end()
        self._ends = False
        self._gone.clear()
        self._earlier.clear()

    def end(self) -> None:
        """After a pass."""
        self._ring.end()
        for parameter, (home, moment) in self._gone.items():
            self._link.meet(moment)
            parameter.grad = home
        self._ends = False
        self._gone.clear()
        self._earlier.clear()

    def _before(self, index: int, number: int) -> None:
        """A gradient is whole, and about to be its parameter's `grad`."""
        if not self._ends:
            self._ends = True
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(self.end)
        self._ring.reach(index, changes=self._updated_in_backward)
        parameter = self._blocks[index].trained[number]
        if parameter.grad is not None:
            self._earlier.add(parameter)
            parameter.grad = None

    def _after(self, index: int, number: int) -> None:
        parameter = self._blocks[index].trained[number]
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        home = self._home(index, number)
        # twice in a pass: a block that is run twice, since each visit to the device is another end of the graph
        _, since = self._gone.get(parameter, (home, None))
        if parameter in self._earlier:
            before = torch.empty_like(home, device=gradient.device)
            self._link.wait(self._link.send(home, before, self._link.mark(), since))
            gradient = before.add_(gradient)
        (self._norms[parameter],) = torch._foreach_norm([gradient])  # as torch takes those of all
        self._earlier.add(parameter)
        self._gone[parameter] = home, self._link.take(gradient, home)

    def _home(self, index: int, number: int) -> Tensor:
        if index not in self._homes:
            block = self._blocks[index]
            self._homes[index] = block.views(self._link.host(block.trained_size))
        return self._homes[index][number]


def _run(method: weakref.WeakMethod[Any], index: int, number: int, _: Tensor) -> None:
    if (found := method()) is not None:
        found(index, number)
