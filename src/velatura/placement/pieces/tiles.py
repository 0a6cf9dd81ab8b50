"""A picture-shaped function computed on tiles that overlap, its results blended where they do."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor


def tiled(
    run: Callable[[slice, slice], Tensor],
    height: int,
    width: int,
    *,
    tile: int,
    overlap: int,
    scale: int = 1,
) -> Tensor:
    """`[B, C, height * scale, width * scale]` float32, from tiles of at most `tile` x `tile` cells.

    `run(rows, columns)` gives the result for these cells, `scale` values per cell and axis. Tiles overlap by `overlap`
    cells or more, as evenly as they can, and lie within the picture; across an overlap the weight moves from one to the
    other in a cosine, so that what is next to a tile's edge, where the network saw a border, counts for nothing.
    """
    rows, columns = _axis(height, tile, overlap, scale), _axis(width, tile, overlap, scale)
    out: Tensor | None = None
    for (down, down_weight), (across, across_weight) in product(rows, columns):
        part = run(down, across).float()
        weight = (down_weight[:, None] * across_weight[None]).to(part.device)
        if out is None:
            out = part.new_zeros((*part.shape[:2], height * scale, width * scale))
        place = (
            slice(down.start * scale, down.stop * scale),
            slice(across.start * scale, across.stop * scale),
        )
        out[:, :, *place] += part * weight
    assert out is not None
    return out


def _axis(size: int, tile: int, overlap: int, scale: int) -> list[tuple[slice, Tensor]]:
    """Cells of each tile along an axis, and the weights of its values; those of one place sum to 1."""
    spans = [slice(start, min(start + tile, size)) for start in _starts(size, tile, overlap)]
    weights = [torch.ones((span.stop - span.start) * scale) for span in spans]
    for index in range(1, len(spans)):
        shared = (spans[index - 1].stop - spans[index].start) * scale
        if not shared:
            continue
        rising = (torch.arange(shared) + 0.5).mul_(math.pi / 2 / shared).sin().square()
        weights[index][:shared] *= rising
        weights[index - 1][len(weights[index - 1]) - shared :] *= rising.flip(0)
    total = torch.zeros(size * scale)
    for span, weight in zip(spans, weights, strict=True):
        total[span.start * scale : span.stop * scale] += weight
    return [
        (span, weight / total[span.start * scale : span.stop * scale])
        for span, weight in zip(spans, weights, strict=True)
    ]


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin: the first at 0, the last so that it ends with the picture."""
    if size <= tile:
        return [0]
    count = math.ceil((size - overlap) / (tile - overlap))
    return [index * (size - tile) // (count - 1) for index in range(count)]
