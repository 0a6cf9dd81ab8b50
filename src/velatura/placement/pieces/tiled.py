"""The KL autoencoder's decoder run in tiles: near to what it gives whole, in the memory of a few tiles.

What has the size of latents, attention among it, is computed whole. The levels behind it run tile by tile. Their group
norms want the statistics of the whole picture; a tile's own would give each tile a brightness and contrast of its own.
So a first pass, in strips, gives the statistics for all tiles. A picture of no more cells than its limit is done with
that pass, exactly. Of a larger one it sees bands of neighbouring rows and columns side by side: within a band a regular
pattern stays as it is, where single places left out would turn it into another.
These statistics are an estimate: what lies between the bands, and looks like nothing within them, is not in it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from velatura.placement.pieces.sliced import decoded_end, decoded_start
from velatura.placement.pieces.strips import Found
from velatura.placement.pieces.tiles import tiled

TILE, OVERLAP = 64, 16  # cells of latents: 512 and 128 pixels
SAMPLE, BAND = 128**2, 32  # cells of the first pass at most; cells of a band of rows or columns, about
SAMPLE_HELD = 2**28  # bytes of a tensor within a block that the first pass may keep
GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, are spread evenly and repeat nothing


@torch.no_grad()
def decode_tiled(autoencoder: Any, latents: Tensor) -> Tensor:
    """Latents before scaling, `[1, C, h, w]` -> `[1, 3, 8 h, 8 w]` float32. For what `can_be_sliced`."""
    x = decoded_start(autoencoder, latents)
    height, width = x.shape[2:]
    rows, columns = _within_a_sample(height, width)
    if (rows, columns) == (height, width):
        return decoded_end(autoencoder, x, held=SAMPLE_HELD).float()
    norms: Found = {}
    sample = x[:, :, _bands(height, rows).to(x.device)][:, :, :, _bands(width, columns).to(x.device)]
    scale = decoded_end(autoencoder, sample, norms, SAMPLE_HELD).shape[2] // rows
    del sample
    return tiled(
        lambda rows, columns: _levels(autoencoder.decoder, x[:, :, rows, columns], norms),
        height,
        width,
        tile=TILE,
        overlap=OVERLAP,
        scale=scale,
    )


def _within_a_sample(height: int, width: int) -> tuple[int, int]:
    """Rows and columns, in proportion as far as they can be, of as many cells as a sample has at most."""
    rows = int(height * min(1.0, (SAMPLE / (height * width)) ** 0.5))
    rows = min(max(rows, 1), SAMPLE)
    return rows, min(max(SAMPLE // rows, 1), width)


def _bands(size: int, most: int) -> Tensor:
    """`most` of the places 0 to `size`, in bands of about `BAND` neighbours.

    Each band lies somewhere in its own part of the axis, at another place in each, so that no period is met always in
    the same phase. The first and the last band lie at the ends.
    """
    count = min(max(round(most / BAND), 2), most)
    places: list[int] = []
    for index in range(count):
        first, last = index * size // count, (index + 1) * size // count
        length = (index + 1) * most // count - index * most // count
        at = {0: 0.0, count - 1: 1.0}.get(index, index * GOLDEN % 1)
        start = first + round(at * (last - first - length))
        places += range(start, start + length)
    return torch.tensor(places)


def _levels(decoder: Any, x: Tensor, norms: Found) -> Tensor:
    """The decoder behind its middle block."""
    for level in decoder.up_blocks:
        for block in level.resnets:
            inner = block.conv1(block.nonlinearity(norms[block.norm1](x)))
            inner = block.conv2(block.nonlinearity(norms[block.norm2](inner)))
            x = (x if block.conv_shortcut is None else block.conv_shortcut(x)) + inner
        for layer in level.upsamplers or ():
            x = layer(x)
    out: Tensor = decoder.conv_out(decoder.conv_act(norms[decoder.conv_norm_out](x)))
    return out
