"""Stochastic rounding: a bf16 weight that is moved by less than it can tell apart moves now and then, by enough."""

from __future__ import annotations

import torch
from torch import Tensor

from velatura.draws import generator_for
from velatura.training.distribution.sharding import local, spread

_DROPPED = 16  # low bits of a float32 that a bf16 has not


def rounded(values: Tensor, seed: int, draw: str, *, like: Tensor) -> Tensor:
    """Float32 values as bf16, up or down with probabilities that make the mean exact; what is not finite stays so.

    `draw` names the random numbers. They are those of the whole tensor `like`, of which `values` are what this process
    holds: results do not depend on how it is shared out.
    """
    generator = generator_for(seed, draw, values.device)
    noise = torch.randint(
        0, 1 << _DROPPED, like.shape, dtype=torch.int32, device=values.device, generator=generator
    )
    bits = values.view(torch.int32) + local(
        spread(noise, like)
    )  # carries into the kept bits, as often as it should
    kept = (bits >> _DROPPED << _DROPPED).view(torch.float32)
    return torch.where(values.isfinite(), kept, values).to(torch.bfloat16)
