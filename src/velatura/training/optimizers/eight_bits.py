"""Averages in 8 bits: blocks of values with a scale each, on 256 levels dense near zero (arXiv:2110.02861)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256  # values that share a scale
_DECADES = 7  # from 1e-7 to 1
_LOWER = 16  # bits of a float32 that a cell leaves open
_CELLS = 1 << 16

Kind = Literal["signed", "unsigned"]
SIGNED: Kind = "signed"
UNSIGNED: Kind = "unsigned"


def levels(kind: Kind) -> Tensor:
    """256 levels in [-1, 1] or [0, 1], sorted, float32: dynamic tree quantisation.

    The decade below 1 has 64 (unsigned: 128) evenly spaced levels, each decade below half as many; 0 and 1 are added.
    """
    positive = []
    for decade in range(_DECADES):
        edges = torch.linspace(0.1, 1, 2 ** (decade + (kind == "unsigned")) + 1, dtype=torch.float64)
        positive.append((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - _DECADES + 1))
    found = torch.cat([*positive, torch.tensor([0.0, 1.0], dtype=torch.float64)])
    if kind == "signed":
        found = torch.cat([found, *(-part for part in positive)])
    return found.sort().values.float()


class Codebook(NamedTuple):
    """The levels of a kind on a device, and what finds the nearest.

    `between`: the boundaries of neighbouring levels, and infinity. `cells`, uint8 `[65536]`: how many boundaries lie
    below all float32 numbers with these upper 16 bits; at most one more lies among them.
    """

    levels: Tensor
    between: Tensor
    cells: Tensor


def codebook(kind: Kind, device: torch.device) -> Codebook:
    """That of a kind, once for each device."""
    if (kind, device) not in _BOOKS:
        _BOOKS[kind, device] = Codebook(*(tensor.to(device) for tensor in _BOOKS[kind, _CPU]))
    return _BOOKS[kind, device]


def pack(values: Tensor, book: Codebook) -> tuple[Tensor, Tensor]:
    """Float32 values as codes, uint8 of the same shape, and scales, float32 `[blocks]`: the largest of each block."""
    blocks = _blocks(values)
    scales = blocks.abs().amax(1)
    shares = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    below = book.cells[(shares.view(torch.int32) >> _LOWER) & (_CELLS - 1)].int()
    codes = (below + (shares > book.between[below])).to(torch.uint8)
    return codes.flatten()[: values.numel()].view(values.shape), scales


def unpack(codes: Tensor, scales: Tensor, book: Codebook) -> Tensor:
    """The inverse of `pack`, up to the distance of two levels."""
    shares = _blocks(book.levels[codes.flatten().int()])
    return (shares * scales[:, None]).flatten()[: codes.numel()].view(codes.shape)


def _blocks(values: Tensor) -> Tensor:
    """`[blocks, 256]`, the last one filled up with zeros."""
    missing = -values.numel() % BLOCK
    flat = F.pad(values.flatten(), (0, missing)) if missing else values.flatten()
    return flat.view(-1, BLOCK)


def _cells(between: Tensor) -> Tensor:
    bits = torch.arange(_CELLS) << _LOWER
    signed = torch.where(bits < 2**31, bits, bits - 2**32).to(torch.int32)
    near, far = (edge.view(torch.float32).nan_to_num() for edge in (signed, signed + (1 << _LOWER)))
    # below zero numbers grow away from it: the lowest of a cell is just above its far edge
    found = torch.where(signed < 0, torch.bucketize(far, between, right=True), torch.bucketize(near, between))
    return found.to(torch.uint8)


def _made(kind: Kind) -> Codebook:
    found = levels(kind)
    between = (found[1:] + found[:-1]) / 2
    return Codebook(found, F.pad(between, (0, 1), value=torch.inf), _cells(between))


_CPU = torch.device("cpu")
# not when first asked for, which may be by a plan, whose tensors have no values
_BOOKS = {(kind, _CPU): _made(kind) for kind in (SIGNED, UNSIGNED)}
