"""Frozen linear layers in 8 bits, one scale per output channel: half of what bf16 takes.

`fp8` is storage only: e4m3 values are widened for each product, which runs in the input's dtype. `int8` multiplies in 8
bits too, forwards and backwards: each row of the input, and of the gradient, is quantised by a scale of its own, and
products are summed exactly in 32 bits. Neither keeps a wide copy of a weight for the backward pass.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from velatura.placement.int8_product import int8_product

Weights = Literal["full", "fp8", "int8"]  # how the linear layers of a denoiser's blocks are held

LARGEST_FP8 = 448.0  # of float8_e4m3fn
LARGEST_INT8 = 127.0
_Context = torch.autograd.function.FunctionCtx


class QuantisedLinear(nn.Module):
    """A frozen linear layer, its weight `[out, in]` in 8 bits, its scale `[out, 1]` in float32, both buffers."""

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        values, scale = self.quantise(layer.weight.detach())
        self.register_buffer("weight", values)
        self.register_buffer("scale", scale)
        self.bias = layer.bias

    @staticmethod
    @abstractmethod
    def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
        """(values, scale) of a weight."""

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`, without the bias."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        out = self.product(x)
        return out if self.bias is None else out + self.bias


class Fp8Linear(QuantisedLinear):
    """Held in float8_e4m3fn."""

    @staticmethod
    def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Each row is scaled by the least power of two that brings its largest value to 448 or below.

        Such a scale costs a floating format nothing, and weights that were e4m3 already, as in fp8 files, stay exact.
        """
        scale = _row_scale(weight, LARGEST_FP8)
        scale = torch.ldexp(torch.ones_like(scale), torch.frexp(scale).exponent)
        return (weight.float() / scale).to(torch.float8_e4m3fn), scale

    def product(self, x: Tensor) -> Tensor:
        """In the dtype of x."""
        out: Tensor = _WideProduct.apply(x, self.weight, self.scale)  # type: ignore[no-untyped-call]
        return out


class Int8Linear(QuantisedLinear):
    """Held and multiplied in int8."""

    @staticmethod
    def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Each row is scaled so that its largest value becomes 127."""
        scale = _row_scale(weight, LARGEST_INT8)
        return (weight.float() / scale).round().to(torch.int8), scale

    def product(self, x: Tensor) -> Tensor:
        """In 8 bits; the result has the dtype of x."""
        out: Tensor = _NarrowProduct.apply(x, self.weight, self.scale)  # type: ignore[no-untyped-call]
        return out


class _WideProduct(torch.autograd.Function):
    """x W^T with W = values * scale; gradients flow to x alone."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        ctx.save_for_backward(values, scale)
        return F.linear(x, widened(values, scale, x.dtype))

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x: the weight is widened again, not kept."""
        values, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        back: Tensor = gradient @ widened(values, scale, gradient.dtype)
        return back, None, None


class _NarrowProduct(torch.autograd.Function):
    """x W^T with both factors in int8; gradients flow to x alone, as if nothing had been rounded."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        ctx.save_for_backward(values, scale)
        found = _rows_times(x, values.t()).mul_(scale.t()).to(x.dtype)
        return found.reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        """gradient W: each scale of W belongs to a term of the sums, so it goes into the gradient before rounding."""
        values, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        found = _rows_times(gradient.float() * scale.t(), values).to(gradient.dtype)
        return found.reshape(*gradient.shape[:-1], -1), None, None


def _rows_times(x: Tensor, values: Tensor) -> Tensor:
    """`[..., k]` with a scale per row, times int8 `[k, n]`: `[rows, n]` float32."""
    rows = x.reshape(-1, x.shape[-1])
    scale = _row_scale(rows, LARGEST_INT8)
    small = (rows.float() / scale).round().to(torch.int8)
    return int8_product(small, values) * scale


def _row_scale(x: Tensor, largest: float) -> Tensor:
    """What each row of `[n, k]` is divided by to reach `largest`: `[n, 1]` float32; 1 for a row of zeros."""
    most = x.abs().amax(dim=1, keepdim=True).float()
    return torch.where(most > 0, most / largest, torch.ones_like(most))


def widened(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight `[out, in]` in a dtype that can be computed with."""
    return values.to(dtype) * scale.to(dtype)


LINEARS: Mapping[str, type[QuantisedLinear]] = {"fp8": Fp8Linear, "int8": Int8Linear}


def quantise_blocks(blocks: Sequence[nn.Module], weights: Weights = "fp8") -> int:
    """Replace every linear layer in the blocks, in place, by one of `LINEARS`; how many there were."""
    kind = LINEARS[weights]
    found = 0
    for block in blocks:
        for module in list(block.modules()):
            for name, child in list(module.named_children()):
                if type(child) is nn.Linear:
                    setattr(module, name, kind(child))
                    found += 1
    return found
