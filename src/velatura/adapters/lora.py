"""The LoRA layer: a frozen linear layer plus a trained low-rank update (arXiv:2106.09685).

Layers that read the same input (q, k, v and the MLP of a FLUX block) share one down projection, as the fused layout
of sd-scripts has it: half the values, and the projection is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# B items, L tokens, r rank


class Down(nn.Module):
    """The down projection A `[r, in]` of one layer, or of several that read the same input."""

    def __init__(self, weight: Tensor, readers: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.readers = readers
        self._kept: tuple[Tensor, Tensor] | None = None  # an input, and what was made of it
        self._state = (False, 0)  # whether gradients were on, and the version of the weight
        self._reads = 0

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., r]` in the dtype of x; computed once for readers of one input in a row."""
        weight = self.weight.to(x.dtype)
        if self.readers == 1 or torch.compiler.is_compiling():  # a compiler merges equal products by itself
            return F.linear(x, weight)
        state = (torch.is_grad_enabled(), self.weight._version)
        if state != self._state:
            self.forget()  # a pass before may have broken off
            self._state = state
        if self._kept is None or self._kept[0] is not x:
            self._kept = (x, F.linear(x, weight))
        hidden = self._kept[1]
        self._reads += 1
        if self._reads == self.readers:
            self.forget()  # hold no activation longer than its readers need it
        return hidden

    def forget(self) -> None:
        """Hold no input."""
        self._kept, self._reads = None, 0


class LoraLinear(nn.Module):
    """y = base(x) + strength * (alpha / r) * (x A^T) B^T; A and B are computed in the dtype of x.

    `strength` is a number, a `[B]` tensor (per item) or a `[B, L]` tensor (per token). The base may itself carry
    another LoRA.
    """

    def __init__(self, base: nn.Module, down: Down, up: Tensor, *, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.down = down
        self.up = nn.Parameter(up)
        self.alpha = alpha
        self.strength: float | Tensor = 1.0

    @property
    def rank(self) -> int:
        """Rank r of the update."""
        return self.up.shape[1]

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.rank

    @property
    def weight(self) -> Tensor:
        """The base layer's weight, for code that looks at its dtype or shape."""
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias."""
        bias: Tensor | None = self.base.bias  # type: ignore[assignment]
        return bias

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        base: Any = self.base
        if isinstance(self.strength, float) and self.strength == 0.0:
            return base(x)  # type: ignore[no-any-return]
        # a compiler adds bias and update where it reads them next, without the copies that a product makes to add to
        in_parts = torch.compiler.is_compiling() and type(base) is nn.Linear
        out: Tensor = F.linear(x, base.weight) if in_parts else base(x)
        hidden = self.down(x)
        up = self.up.to(out.dtype)
        if isinstance(self.strength, Tensor):
            hidden = hidden * _per_token(self.strength, hidden) * self.scale
        else:
            up = up * (self.scale * self.strength)
        low: Tensor = hidden.reshape(-1, hidden.shape[-1]).to(out.dtype)
        if not in_parts:
            return torch.addmm(out.reshape(-1, out.shape[-1]), low, up.t()).view_as(out)
        biased: Tensor = out if base.bias is None else out + base.bias
        return biased + (low @ up.t()).view_as(out)

    def delta(self) -> Tensor:
        """The update of the base weight at strength 1, float32 `[out, in]`."""
        return (self.up.float() @ self.down.weight.float()) * self.scale


class LoraConv(LoraLinear):
    """The same on a convolution: A `[r, in, kh, kw]` is moved over x as the base is, B `[out, r, 1, 1]` mixes channels.

    SD 1 has 1x1 convolutions where its transformer blocks begin and end, and files of other tools train them.
    """

    def __init__(self, base: nn.Module, down: Down, up: Tensor, *, alpha: float) -> None:
        super().__init__(base, down, up, alpha=alpha)
        conv: Any = base
        self.steps: tuple[Any, ...] = (
            base.steps if isinstance(base, LoraConv) else (conv.stride, conv.padding, conv.dilation)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, in, H, W]` -> `[B, out, H', W']`."""
        out: Tensor = self.base(x)
        if isinstance(self.strength, float) and self.strength == 0.0:
            return out
        hidden = F.conv2d(x, self.down.weight.to(x.dtype), None, *self.steps)
        strength = self.strength
        factor = _per_token(strength, hidden) if isinstance(strength, Tensor) else strength
        return out + F.conv2d(hidden * (factor * self.scale), self.up.to(out.dtype))

    def delta(self) -> Tensor:
        """The update of the base weight at strength 1, float32 `[out, in, kh, kw]`."""
        product = self.up.float().flatten(1) @ self.down.weight.float().flatten(1)
        return (product * self.scale).view(self.up.shape[0], *self.down.weight.shape[1:])


def forget_inputs(modules: Iterable[nn.Module]) -> None:
    """Let down projections hold no activations of a pass that broke off, and with them all that they were made of."""
    for module in modules:
        for one in module.modules():
            if isinstance(one, Down):
                one.forget()


@contextmanager
def forgetting(modules: Collection[nn.Module]) -> Iterator[None]:
    """Let down projections hold no activations when what is done here ends, also by an error."""
    try:
        yield
    finally:
        forget_inputs(modules)


def fresh_down(rank: int, features: int, generator: torch.Generator) -> Tensor:
    """Kaiming-uniform with a = sqrt(5), as `nn.Linear` starts: uniform in +-1/sqrt(in)."""
    bound = 1 / math.sqrt(features)
    return (torch.rand(rank, features, generator=generator) * 2 - 1) * bound


def _per_token(strength: Tensor, hidden: Tensor) -> Tensor:
    """`[B]` or `[B, L]` -> a shape that multiplies `[B, (L,) r]`."""
    shaped = strength.to(hidden.device, hidden.dtype)
    return shaped.reshape(*shaped.shape, *(1,) * (hidden.ndim - shaped.ndim))
