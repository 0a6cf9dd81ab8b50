"""Marks in what a tracker follows: where blocks begin, forward and backward, and which tensors are gradients."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from velatura.placement.streamed.activations import goes
from velatura.planning.repeats import UPDATE
from velatura.planning.tracking import Tracker


@contextmanager
def marked(
    tracker: Tracker, blocks: Sequence[nn.Module], parameters: Collection[nn.Parameter] = ()
) -> Iterator[None]:
    """Mark the blocks, what comes after the last of them, and the update of the parameters after their gradients."""
    hooks: list[Any] = []
    for place, block in enumerate(blocks):
        hooks += _marks(block, place, tracker)
    noted = _Gradients(tracker, len(parameters))
    hooks += [parameter.register_post_accumulate_grad_hook(noted) for parameter in parameters]
    if blocks:
        hooks.append(blocks[-1].register_forward_hook(lambda *_: tracker.mark(("head", 0))))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def inputs_noted(blocks: Sequence[nn.Module]) -> Iterator[dict[int, int]]:
    """Bytes of each block's inputs that may wait in the machine's memory for the backward pass."""
    noted: dict[int, int] = {}

    def note(place: int, module: nn.Module, args: tuple[Any, ...]) -> None:
        noted[place] = sum(one.nbytes for one in args if goes(one))

    hooks = [block.register_forward_pre_hook(partial(note, place)) for place, block in enumerate(blocks)]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def _marks(block: nn.Module, place: int, tracker: Tracker) -> list[Any]:
    begun = False

    def backward(gradient: Tensor) -> None:
        nonlocal begun
        if not begun:
            begun = True
            tracker.mark(("backward", place))

    def after(module: nn.Module, args: Any, out: Any) -> None:
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(backward)

    return [
        block.register_forward_pre_hook(lambda *_: tracker.mark(("forward", place))),
        block.register_forward_hook(after),
    ]


class _Gradients:
    """Tells the tracker of each gradient; after the last one the update begins."""

    def __init__(self, tracker: Tracker, count: int) -> None:
        self.tracker = tracker
        self.left = count

    def __call__(self, parameter: Tensor) -> None:
        if parameter.grad is not None:  # else it was used and freed already
            self.tracker.know([parameter.grad], "gradients")
        self.left -= 1
        if not self.left:
            self.tracker.mark(UPDATE)
