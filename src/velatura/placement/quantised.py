"""Frozen linear layers in 8 bits: e4m3 values with one scale per output channel, computed in the input's dtype.

Storage only: the product itself runs in bf16 or fp32. A weight takes half of what bf16 takes, and is widened anew in
the backward pass, so that no autograd graph ever holds a wide copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 448.0  # of float8_e4m3fn


class _Product(torch.autograd.Function):
    """x W^T with W = values * scale; gradients flow to x alone."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        ctx.save_for_backward(values, scale)
        return F.linear(x, widened(values, scale, x.dtype))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x: the weight is widened again, not kept."""
        values, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient @ widened(values, scale, gradient.dtype), None, None


class Fp8Linear(nn.Module):
    """A frozen linear layer, its weight `[out, in]` in float8_e4m3fn, its scale `[out, 1]` in float32."""

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        values, scale = quantise(layer.weight.detach())
        self.register_buffer("weight", values)
        self.register_buffer("scale", scale)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        out: Tensor = _Product.apply(x, self.weight, self.scale)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(values, scale): each row is scaled so that its largest value becomes 448; a row of zeros keeps scale 1."""
    largest = weight.float().abs().amax(dim=1, keepdim=True)
    scale = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
    return (weight.float() / scale).to(torch.float8_e4m3fn), scale


def widened(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight `[out, in]` in a dtype that can be computed with."""
    return values.to(dtype) * scale.to(dtype)


def quantise_blocks(blocks: Sequence[nn.Module]) -> int:
    """Replace every linear layer in the blocks, in place; how many there were."""
    found = 0
    for block in blocks:
        for module in list(block.modules()):
            for name, child in list(module.named_children()):
                if type(child) is nn.Linear:
                    setattr(module, name, Fp8Linear(child))
                    found += 1
    return found
