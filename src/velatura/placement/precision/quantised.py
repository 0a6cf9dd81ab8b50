"""Frozen linear layers in 8 or 4 bits: half or a quarter of what bf16 takes.

`fp8` is storage only: e4m3 values, with a scale per output channel, are widened for each product, which runs in the
input's dtype. So is `nf4`, with a scale per 64 values. `int8` multiplies in 8 bits too, forwards and backwards: each
row of the input, and of the gradient, is quantised by a scale of its own, and products are summed exactly in 32 bits.
None keeps a wide copy of a weight for the backward pass.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from velatura.placement.on_cuda import is_on_cuda
from velatura.placement.precision import nf4
from velatura.placement.precision.int8_product import int8_product

Weights = Literal["full", "fp8", "int8", "nf4"]  # how the linear layers of a denoiser's blocks are held

LARGEST_FP8 = 448.0  # of float8_e4m3fn
LARGEST_INT8 = 127.0
_Context = torch.autograd.function.FunctionCtx


class QuantisedLinear(nn.Module):
    """A frozen linear layer, its values in a narrow type, their scales in float32 or bfloat16, both buffers."""

    values: Tensor
    scale: Tensor

    def __init__(self, values: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.register_buffer("scale", scale)
        self.bias = bias

    @classmethod
    def of(cls, layer: nn.Linear) -> Self:
        """A layer with its weight quantised, and its own bias."""
        return cls(*cls.quantise(layer.weight.detach()), layer.bias)

    @property
    def weight(self) -> Tensor:
        """Stands for the weight where code asks for its shape, its device, or whether it is in 8 bits; has no values.

        int8, by which libraries know that their inputs are not to be brought to the weight's dtype.
        """
        return self.values.new_empty((), dtype=torch.int8).expand(self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """`(out, in)`."""
        return self.values.shape[0], self.values.shape[1]

    @staticmethod
    @abstractmethod
    def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
        """(values, scale) of a weight."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""


class Fp8Linear(QuantisedLinear):
    """Held in float8, e4m3 where it was quantised here."""

    @staticmethod
    def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Each row is scaled by the least power of two that brings its largest value to 448 or below.

        Such a scale costs a floating format nothing, and weights that were e4m3 already stay exact.
        """
        scale = _row_scale(weight, LARGEST_FP8)
        power = torch.ldexp(torch.ones_like(scale), torch.frexp(scale).exponent)
        scale = torch.where(scale.isfinite(), power, scale)
        return (weight.float() / scale).to(torch.float8_e4m3fn), scale

    def forward(self, x: Tensor) -> Tensor:
        """In the dtype of x."""
        out: Tensor = _WideProduct.apply(x, self.bias, "fp8", self.values, self.scale)  # type: ignore[no-untyped-call]
        return out


class Nf4Linear(QuantisedLinear):
    """Held in NF4, two values a byte, with a scale for each 64 of a row."""

    table: Tensor

    def __init__(self, values: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(values, scale, bias)
        self.register_buffer("table", nf4.pairs(values.device))

    @property
    def shape(self) -> tuple[int, int]:
        """`(out, in)`."""
        return self.values.shape[0], 2 * self.values.shape[1]

    @staticmethod
    def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
        """See `nf4.quantise`."""
        return nf4.quantise(weight)

    def forward(self, x: Tensor) -> Tensor:
        """In the dtype of x."""
        stored = self.values, self.scale, self.table
        out: Tensor = _WideProduct.apply(x, self.bias, "nf4", *stored)  # type: ignore[no-untyped-call]
        return out


class Int8Linear(QuantisedLinear):
    """Held and multiplied in int8."""

    @staticmethod
    def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Each row is scaled so that its largest value becomes 127."""
        return _in_int8(weight)

    def forward(self, x: Tensor) -> Tensor:
        """In 8 bits; the result has the dtype of x."""
        out: Tensor = _NarrowProduct.apply(x, self.values, self.scale)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.to(out.dtype)


class _WideProduct(torch.autograd.Function):
    """x W^T + bias with W widened from what is stored; gradients flow to x alone."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, bias: Tensor | None, kind: str, *stored: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        ctx.save_for_backward(*stored)
        ctx.kind = kind  # type: ignore[attr-defined]
        return F.linear(x, _WIDENED[kind](*stored, x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of x: the weight is widened again, not kept."""
        stored, kind = ctx.saved_tensors, ctx.kind  # type: ignore[attr-defined]
        if torch.compiler.is_compiling():
            weight = _widened_again(stored, gradient.dtype, kind)
        else:
            weight = _WIDENED[kind](*stored, gradient.dtype)
        return gradient @ weight, None, None, *(None for _ in stored)


class _NarrowProduct(torch.autograd.Function):
    """x W^T with both factors in int8; gradients flow to x alone, as if nothing had been rounded."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        ctx.save_for_backward(values, scale)
        found = _rows_times(x, values.t()).mul_(scale.t()).to(x.dtype)
        return found.reshape(*x.shape[:-1], values.shape[0])

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        """gradient W: each scale of W belongs to a term of the sums, so it goes into the gradient before rounding."""
        values, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        found = _rows_times(gradient.float() * scale.t(), values).to(gradient.dtype)
        return found.reshape(*gradient.shape[:-1], values.shape[1]), None, None


def _rows_times(x: Tensor, values: Tensor) -> Tensor:
    """`[..., k]` with a scale per row, times int8 `[k, n]`: `[rows, n]` float32."""
    rows = x.reshape(-1, x.shape[-1])
    small, scale = _in_int8(rows)
    return int8_product(small, values) * scale


def _in_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """`[n, k]` as int8 and a scale per row, `[n, 1]` float32.

    The scale of a row of zeros is 0, so that what it is multiplied with elsewhere does not count; that of a row with
    NaN or infinity makes NaN of what is multiplied with it, for int8 has neither.
    """
    scale = _row_scale(x, LARGEST_INT8)
    divisor = torch.where(scale == 0, 1.0, scale)
    return (x / divisor).round_().to(torch.int8), scale  # in float32, as the divisor is


def _row_scale(x: Tensor, largest: float) -> Tensor:
    """What each row of `[n, k]` is divided by to reach `largest`: `[n, 1]` float32; 0 for a row of zeros."""
    if is_on_cuda(x.device):
        lowest, highest = x.aminmax(dim=1, keepdim=True)  # in one run through x, and no copy of it
        return torch.maximum(highest, -lowest).float() / largest
    return x.abs().amax(dim=1, keepdim=True).float() / largest


def widened(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight `[out, in]` in a dtype that can be computed with; products are made in float32 and rounded once.

    `scale`: `[out, 1]`, or one for each of several blocks of a row.
    """
    wide = values.to(dtype)
    if scale.shape[1] == 1:
        return wide.mul_(scale)
    wide.unflatten(1, (scale.shape[1], -1)).mul_(scale[..., None])
    return wide


_WIDENED: Mapping[str, Callable[..., Tensor]] = {"fp8": widened, "nf4": nf4.widened}


# an operation of its own, which the compiler does not look into: else it sees that the forward pass makes the same
# weight, and keeps that for the backward pass
@torch.library.custom_op("velatura::widened_again", mutates_args=())
def _widened_again(stored: Sequence[Tensor], dtype: torch.dtype, kind: str) -> Tensor:
    return _WIDENED[kind](*stored, dtype)


@_widened_again.register_fake
def _(stored: Sequence[Tensor], dtype: torch.dtype, kind: str) -> Tensor:
    return _WIDENED[kind](*stored, dtype)


BYTES: Mapping[str, float] = {
    "fp8": 1,
    "int8": 1,
    "nf4": 0.5 + 2 / nf4.BLOCK,
}  # a value, without scales of rows
LINEARS: Mapping[str, type[QuantisedLinear]] = {"fp8": Fp8Linear, "int8": Int8Linear, "nf4": Nf4Linear}


def quantise_blocks(blocks: Sequence[nn.Module], weights: Weights = "fp8") -> int:
    """Hold the linear layers in the blocks by one of `LINEARS`, in place; how many are, those held before included."""
    kind = LINEARS[weights]
    found = 0
    for block in blocks:
        for module in list(block.modules()):
            for name, child in list(module.named_children()):
                if type(child) is nn.Linear:
                    setattr(module, name, kind.of(child))
                found += isinstance(getattr(module, name), kind)
    return found
