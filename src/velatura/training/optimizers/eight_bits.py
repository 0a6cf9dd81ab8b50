"""Averages in 8 bits: blocks of values with a scale each, on 256 levels dense near zero (arXiv:2110.02861)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256  # values that share a scale
_DECADES = 7  # from 1e-7 to 1

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


_LEVELS = {kind: levels(kind) for kind in (SIGNED, UNSIGNED)}
_BETWEEN = {kind: (found[1:] + found[:-1]) / 2 for kind, found in _LEVELS.items()}


def pack(values: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Float32 values as codes, uint8 of the same shape, and scales, float32 `[blocks]`: the largest of each block."""
    blocks = F.pad(values.flatten(), (0, -values.numel() % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    shares = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(shares, _BETWEEN[kind].to(values.device), out_int32=True).to(torch.uint8)
    return codes.flatten()[: values.numel()].view(values.shape).clone(), scales


def unpack(codes: Tensor, scales: Tensor, kind: Kind) -> Tensor:
    """The inverse of `pack`, up to the distance of two levels."""
    shares = _LEVELS[kind].to(codes.device)[codes.flatten().int()]
    shares = F.pad(shares, (0, -codes.numel() % BLOCK)).view(-1, BLOCK)
    return (shares * scales[:, None]).flatten()[: codes.numel()].view(codes.shape)
