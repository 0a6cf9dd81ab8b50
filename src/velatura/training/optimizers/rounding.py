"""Stochastic rounding: a bf16 weight that is moved by less than it can tell apart moves now and then, by enough."""

from __future__ import annotations

import torch
from torch import Tensor

from velatura.draws import generator_for
from velatura.training.distribution.sharding import local, spread

_DROPPED = 16  # low bits of a float32 that a bf16 has not
_MASK = (1 << _DROPPED) - 1
_AT_ONCE = 4  # draws in one of 64 bits


def noise_for(like: Tensor, seed: int, draw: str) -> Tensor:
    """16 random bits for each value of a bf16 weight, the lower ones of an integer: of what this process holds of it.

    `draw` names the random numbers. They are those of the whole weight: results do not depend on how it is shared out.
    """
    generator = generator_for(seed, draw, like.device)
    count = like.numel()
    if like.device.type == "mps":  # which draws no whole 64 bits
        spans = torch.randint(
            0, 1 << _DROPPED, like.shape, dtype=torch.int32, device=like.device, generator=generator
        )
        return local(spread(spans, like))
    many = torch.empty(-(-count // _AT_ONCE), dtype=torch.int64, device=like.device)
    bits = many.random_(-(2**63), None, generator=generator).view(torch.int16)
    return local(spread(bits[:count].view(like.shape), like))


def rounded(values: Tensor, noise: Tensor) -> Tensor:
    """Float32 values as bf16, up or down with probabilities that make the mean exact; what is not finite stays so."""
    # carries into the kept bits, as often as it should
    bits = values.view(torch.int32) + (noise.int() & _MASK)
    kept = (bits >> _DROPPED << _DROPPED).view(torch.float32)
    return torch.where(values.isfinite(), kept, values).to(torch.bfloat16)
