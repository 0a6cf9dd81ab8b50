"""Running parts of a denoiser again in the backward pass, instead of keeping what they computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from velatura.placement.streamed.activations import Activations

Policy = bool | Literal["mlp"] | int  # none or all blocks; their feed-forward parts; every k-th block
Part = tuple[nn.Module, str]  # a module, and the name of the method of it that is run
T = TypeVar("T")


def run_again(
    run: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    activations: Activations | None = None,
) -> Any:
    """Run, and once more in the backward pass; until then only the inputs are kept, perhaps away in `activations`."""
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if torch.compiler.is_compiling():  # a part of a block, and within its graph nothing is cast for good
        return checkpoint(run, *args, **options, **kwargs)
    with casts_not_kept():
        if activations is None:
            return checkpoint(run, *args, **options, **kwargs)
        kept = activations.keep(args)
        once = [args]

        def with_inputs() -> Any:
            return run(*(once.pop() if once else kept.back()), **kwargs)

        return checkpoint(with_inputs, **options)


@contextmanager
def casts_not_kept() -> Iterator[None]:
    """Autocast keeps copies of trained weights in its precision until the forward pass is over: all of them."""
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)


class _Recomputed:
    """A method that keeps only its inputs while gradients are on, and never what autocast made of its weights."""

    def __init__(self, run: Any, activations: Activations | None) -> None:
        self.run = run
        self._activations = activations

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            with casts_not_kept():
                return self.run(*args, **kwargs)
        return run_again(self.run, args, kwargs, self._activations)


def whole(blocks: Sequence[T], policy: Policy) -> Sequence[T]:
    """Of the blocks, or of their places, those that a policy runs again from beginning to end."""
    if policy is False or policy == "mlp":
        return ()
    return blocks if policy is True else blocks[:: int(policy)]


def recompute(
    blocks: Sequence[nn.Module],
    policy: Policy = True,
    feed_forwards: Sequence[Part] = (),
    *,
    besides: Sequence[nn.Module] = (),
    activations: Activations | None = None,
) -> None:
    """Make blocks recompute themselves in the backward pass.

    True: every block keeps its inputs alone, for a quarter to two fifths more time; an integer k: every k-th one.
    "mlp": of every block `feed_forwards` do so, which keep the widest activations (see `Family.feed_forwards`).
    `besides`: blocks that are run again already (see `stream`). `activations`: where the inputs of blocks wait, if not
    on the device.
    """
    again = {id(module) for block in besides for module in block.modules()}
    parts = feed_forwards if policy == "mlp" else [(block, "forward") for block in whole(blocks, policy)]
    for module, method in parts:
        if id(module) not in again:
            setattr(module, method, _Recomputed(getattr(module, method), activations))
