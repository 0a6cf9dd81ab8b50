"""Convolutional networks run some rows at a time, with the result of the whole.

A `Rows` is a picture-shaped tensor that may not exist: it gives any of its rows when asked, and asks its source for
those that it needs, more by as many as its kernel reaches beyond. Group norms take their statistics over the whole
picture: their source is run through once for them. So no step sees a border that is not there, and what is in memory at
once is what `kept` holds, and a strip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIP = 8 * 2**20  # bytes of a strip of one tensor, about
LEAST = 8  # rows of a strip: more than two kernels reach


@dataclass(frozen=True, kw_only=True)
class Rows:
    """`[B, C, H, W]` with the given shape (C, H, W); `take(a, b)` computes rows a to b of it, `[B, C, b - a, W]`."""

    shape: tuple[int, int, int]
    take: Callable[[int, int], Tensor]

    @property
    def size(self) -> int:
        """Values of an item."""
        channels, height, width = self.shape
        return channels * height * width


@dataclass(frozen=True, kw_only=True)
class Affine:
    """What a group norm does once its statistics are known: x * scale + shift, each `[B, C, 1, 1]` float32."""

    scale: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """In float32, and back to the type of x."""
        return torch.addcmul(self.shift, x.float(), self.scale).to(x.dtype)


class Statistics:
    """Mean and variance of groups of channels, `[B, groups]` float32, put together from parts of a picture.

    Chan, Golub, LeVeque 1979: exact for any split, without the cancellation of a sum of squares.
    """

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.count = 0
        self.mean = self.variance = torch.zeros(())

    def add(self, x: Tensor) -> None:
        """A part, `[B, C, h, w]`."""
        values = x.float().reshape(x.shape[0], self.groups, -1)
        variance, mean = torch.var_mean(values, dim=2, correction=0)
        self.count += values.shape[2]
        share = values.shape[2] / self.count  # 1 for the first part: what was there before has no weight
        away = mean - self.mean.to(x.device)
        self.variance = self.variance.to(x.device).lerp(variance, share)
        self.variance += away.square() * (share * (1 - share))
        self.mean = self.mean.to(x.device) + away * share


def affine(norm: nn.GroupNorm, over: Statistics) -> Affine:
    """What a group norm does with these statistics of its input."""
    each = norm.num_channels // norm.num_groups
    scale = (over.variance + norm.eps).rsqrt().repeat_interleave(each, dim=1) * norm.weight.float()
    shift = norm.bias.float() - over.mean.repeat_interleave(each, dim=1) * scale
    return Affine(scale=scale[:, :, None, None], shift=shift[:, :, None, None])


def stored(x: Tensor) -> Rows:
    """A tensor that is there."""
    return Rows(shape=(x.shape[1], x.shape[2], x.shape[3]), take=lambda a, b: x[:, :, a:b])


def convolved(source: Rows, layer: nn.Conv2d, more: tuple[int, int] = (0, 0)) -> Rows:
    """A convolution with zeros around the picture; `more`: extra zeros before and after each axis."""
    _, height, width = source.shape
    (kernel, across), stride = layer.kernel_size, layer.stride[0]
    before = [int(pad) + more[0] for pad in layer.padding]
    after = [int(pad) + more[1] for pad in layer.padding]

    def take(a: int, b: int) -> Tensor:
        first, last = a * stride - before[0], (b - 1) * stride - before[0] + kernel
        x = source.take(max(first, 0), min(last, height))
        x = F.pad(x, (before[1], after[1], max(-first, 0), max(last - height, 0)))
        return F.conv2d(x, layer.weight, layer.bias, stride=layer.stride)

    rows = (height + before[0] + after[0] - kernel) // stride + 1
    columns = (width + before[1] + after[1] - across) // stride + 1
    return Rows(shape=(layer.out_channels, rows, columns), take=take)


def normalised(source: Rows, norm: nn.GroupNorm, then: Callable[[Tensor], Tensor]) -> Rows:
    """A group norm with the statistics of the whole picture, and a function of single values after it."""
    statistics = Statistics(norm.num_groups)
    for a, b in strips(source):
        statistics.add(source.take(a, b))
    change = affine(norm, statistics)

    def take(a: int, b: int) -> Tensor:
        return then(change(source.take(a, b)))

    return Rows(shape=source.shape, take=take)


def doubled(source: Rows) -> Rows:
    """Every value four times: twice as many rows and columns."""

    def take(a: int, b: int) -> Tensor:
        first = a // 2
        x = F.interpolate(source.take(first, (b + 1) // 2), scale_factor=2.0, mode="nearest")
        return x[:, :, a - 2 * first : b - 2 * first]

    channels, height, width = source.shape
    return Rows(shape=(channels, 2 * height, 2 * width), take=take)


def added(one: Rows, other: Rows) -> Rows:
    """The sum of two of one shape."""
    return Rows(shape=one.shape, take=lambda a, b: one.take(a, b) + other.take(a, b))


def kept(source: Rows, over: Tensor | None = None) -> Tensor:
    """All rows, in memory. `over`: a tensor that is not needed afterwards; the result is put there if it fits.

    The source may read `over`, as far as a few rows beyond those that are asked for: what is written lags one strip
    behind.
    """
    out: Tensor | None = None
    waiting: tuple[int, Tensor] | None = None
    for a, b in strips(source):
        strip = source.take(a, b)
        if out is None:
            shape = (strip.shape[0], *source.shape)
            reused = over is not None and over.shape == shape and over.dtype == strip.dtype
            out = over if reused else strip.new_empty(shape)
        assert out is not None
        if waiting is not None:
            _write(out, *waiting)
        waiting = (a, strip)
    assert out is not None
    assert waiting is not None
    _write(out, *waiting)
    return out


def strips(source: Rows) -> Iterator[tuple[int, int]]:
    """(first row, row after the last) of each strip: `STRIP` bytes in float32, or `LEAST` rows."""
    channels, height, width = source.shape
    rows = max(LEAST, STRIP // (4 * channels * width))
    for a in range(0, height, rows):
        yield a, min(a + rows, height)


def _write(out: Tensor, a: int, strip: Tensor) -> None:
    out[:, :, a : a + strip.shape[2]] = strip
