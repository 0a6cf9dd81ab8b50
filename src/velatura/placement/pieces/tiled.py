"""The KL autoencoder's decoder in tiles: what it gives whole, and of its last level nothing is held but tiles.

The last level has the size of the picture, and is most of what a decoder holds. Here it is run tile by tile, from what
the level before it gives. Tiles are cut with as many cells more as the convolutions of that level reach, so that none
sees a border that is not there, and no seam is to be blended. Group norms take their statistics over the whole picture:
for each of them all tiles are run as far as it, and one last time to the end, about four times the work of that level.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from velatura.placement.pieces.sliced import decoded_levels, decoded_start
from velatura.placement.pieces.strips import Affine, Statistics, affine

TILE = 128  # cells before the last level: 256 pixels
HELD = 2**28  # bytes of a tensor within a block of the levels before it that may be kept
Cells = tuple[slice, slice]  # rows and columns


@torch.no_grad()
def decode_tiled(autoencoder: Any, latents: Tensor) -> Tensor:
    """Latents before scaling, `[B, C, h, w]` -> `[B, 3, 8 h, 8 w]`. For what `can_be_sliced`."""
    decoder = autoencoder.decoder
    *levels, _ = decoder.up_blocks
    x = decoded_levels(levels, decoded_start(autoencoder, latents), held=HELD)
    known: dict[nn.GroupNorm, Affine] = {}
    for norm in _norms(decoder):
        statistics = Statistics(norm.num_groups)
        for cells in _tiles(x):
            statistics.add(_cut(decoder, x, cells, known, until=norm))
        known[norm] = affine(norm, statistics)
    out: Tensor | None = None
    for cells in _tiles(x):
        tile = _cut(decoder, x, cells, known)
        scale = tile.shape[2] // (cells[0].stop - cells[0].start)
        if out is None:
            out = tile.new_empty(*tile.shape[:2], *(edge * scale for edge in x.shape[2:]))
        rows, columns = (slice(one.start * scale, one.stop * scale) for one in cells)
        out[:, :, rows, columns] = tile
    assert out is not None
    return out


def _norms(decoder: Any) -> Iterator[nn.GroupNorm]:
    """Those of the last level and the end, in the order in which they are run."""
    for block in decoder.up_blocks[-1].resnets:
        yield from (block.norm1, block.norm2)
    yield decoder.conv_norm_out


def _tiles(x: Tensor) -> Iterator[Cells]:
    """The picture in parts."""
    height, width = x.shape[2:]
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield slice(top, min(top + TILE, height)), slice(left, min(left + TILE, width))


def _cut(
    decoder: Any,
    x: Tensor,
    cells: Cells,
    known: dict[nn.GroupNorm, Affine],
    until: nn.GroupNorm | None = None,
) -> Tensor:
    """What `_last_level` gives for these cells of x, as it is there in the whole picture."""
    around, before = [], []
    for part, edge in zip(cells, x.shape[2:], strict=True):
        first, last = max(0, part.start - _reach(decoder)), min(edge, part.stop + _reach(decoder))
        around.append(slice(first, last))
        before.append(part.start - first)
    found = _last_level(decoder, x[:, :, around[0], around[1]], known, until)
    scale = found.shape[2] // (around[0].stop - around[0].start)
    rows, columns = (
        slice(skip * scale, (skip + part.stop - part.start) * scale)
        for skip, part in zip(before, cells, strict=True)
    )
    tile: Tensor = found[:, :, rows, columns]
    return tile


def _reach(decoder: Any) -> int:
    """Cells beyond its own that a value at the end of the last level depends on.

    A value for each convolution of 3 x 3: of the upsampler, two of each block, the last. A cell is two values wide
    where there is an upsampler.
    """
    blocks = len(decoder.up_blocks[-1].resnets)
    upsampled = any(level.upsamplers for level in decoder.up_blocks[-2:-1])
    return blocks + 1 if upsampled else 2 * blocks + 1


def _last_level(
    decoder: Any, x: Tensor, known: dict[nn.GroupNorm, Affine], until: nn.GroupNorm | None
) -> Tensor:
    """From what the level before it gives, to the picture; or to the input of one of its norms."""
    for level in decoder.up_blocks[-2:-1]:
        for layer in level.upsamplers or ():
            x = layer(x)
    for block in decoder.up_blocks[-1].resnets:
        if block.norm1 is until:
            return x
        inner = block.conv1(block.nonlinearity(known[block.norm1](x)))
        if block.norm2 is until:
            return inner  # type: ignore[no-any-return]
        inner = block.conv2(block.nonlinearity(known[block.norm2](inner)))
        x = (x if block.conv_shortcut is None else block.conv_shortcut(x)) + inner
    if decoder.conv_norm_out is until:
        return x
    out: Tensor = decoder.conv_out(decoder.conv_act(known[decoder.conv_norm_out](x)))
    return out
