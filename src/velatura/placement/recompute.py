"""Running parts of a denoiser again in the backward pass, instead of keeping what they computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Policy = bool | Literal["mlp"] | int  # none or all blocks; their feed-forward parts; every k-th block
Part = tuple[nn.Module, str]  # a module, and the name of the method of it that is run


class _Recomputed:
    """A method that keeps only its inputs while gradients are on."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.run(*args, **kwargs)
        return checkpoint(self.run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def recompute(blocks: Sequence[nn.Module], policy: Policy = True, feed_forwards: Sequence[Part] = ()) -> None:
    """Make blocks recompute themselves in the backward pass.

    True: every block keeps its inputs alone, for about a third more time; an integer k: every k-th one does so.
    "mlp": of every block `feed_forwards` do so, which keep the widest activations (see `Family.feed_forwards`).
    """
    if policy == "mlp":
        parts = feed_forwards
    elif isinstance(policy, bool):
        parts = [(block, "forward") for block in blocks if policy]
    else:
        parts = [(block, "forward") for block in blocks[:: int(policy)]]
    for module, method in parts:
        setattr(module, method, _Recomputed(getattr(module, method)))
