"""Parts that start from random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from velatura.draws import generator_for

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def from_scratch(build: Callable[[], ModuleT], seed: int, what: str, device: torch.device) -> ModuleT:
    """Build a module in float32 with its class's own initialisation, drawn by `seed` and `what` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(seed, f"scratch/{what}").initial_seed())
        module = build()
    return module.float().to(device).requires_grad_(False).eval()
