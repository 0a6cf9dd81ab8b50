"""Frozen modules in 16 bits on a CPU that would emulate products in them: held as they are, computed in float32.

Only the layer at hand is widened, so they take what they took; a T5 of 4.7 billion weights is some four times faster.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from velatura.placement.device import has_bf16
from velatura.placement.precision.quantised import QuantisedLinear

NARROW = (torch.bfloat16, torch.float16)


class HeldLinear(QuantisedLinear):
    """Held in the dtype of its weight, and multiplied in that of its input."""

    @staticmethod
    def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
        """The weight itself; it has no scale."""
        return weight, weight.new_ones(())

    def forward(self, x: Tensor) -> Tensor:
        """In the dtype of x; no gradient is kept for."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.values.to(x.dtype), bias)


def is_emulated(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device computes in a dtype of 16 bits by way of others."""
    return device.type == "cpu" and emulates(dtype, bf16=has_bf16(device))


def emulates(dtype: torch.dtype, *, bf16: bool) -> bool:
    """The same of a CPU with units for `bf16` or without."""
    return dtype in NARROW and not (dtype == torch.bfloat16 and bf16)


def compute_in_float32(modules: Iterable[nn.Module]) -> None:
    """Let frozen modules give float32. Linear layers and embeddings stay as they are held, all else becomes float32."""
    for module in modules:
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear and child.weight.dtype in NARROW:
                    setattr(parent, name, HeldLinear.of(child))
        for one in module.modules():
            if isinstance(one, nn.Embedding):
                one.register_forward_hook(_in_float32)
            elif not isinstance(one, QuantisedLinear):
                for tensor in chain(one.parameters(recurse=False), one.buffers(recurse=False)):
                    if tensor.dtype in NARROW:
                        tensor.data = tensor.data.float()


def _in_float32(module: nn.Module, given: Any, out: Tensor) -> Tensor:
    return out.float()
