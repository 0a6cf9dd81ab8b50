"""The KL autoencoder's decoder run in tiles: near to what it gives whole, in the memory of a tile.

What has the size of latents, attention among it, is computed whole. The levels behind it run tile by tile. Their group
norms want the statistics of the whole picture; a tile's own would give each tile a brightness and contrast of its own.
So a first pass over the whole, reduced to a tile's size by leaving out places, gives the statistics for all tiles:
places that are left out change the values' neighbours, and their distribution hardly. A picture of no more cells than a
tile, whatever its proportions, is done with that pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from velatura.placement.pieces.sliced import decoded_start
from velatura.placement.pieces.tiles import tiled

TILE, OVERLAP = 64, 16  # cells of latents: 512 and 128 pixels


@torch.no_grad()
def decode_tiled(autoencoder: Any, latents: Tensor) -> Tensor:
    """Latents before scaling, `[1, C, h, w]` -> `[1, 3, 8 h, 8 w]` float32. For what `can_be_sliced`."""
    x = decoded_start(autoencoder, latents)
    height, width = x.shape[2:]
    norms, (rows, columns) = _Norms(), _within_a_tile(height, width)
    first = _levels(autoencoder.decoder, F.interpolate(x, size=(rows, columns), mode="nearest-exact"), norms)
    if (rows, columns) == (height, width):
        return first.float()
    return tiled(
        lambda rows, columns: _levels(autoencoder.decoder, x[:, :, rows, columns], norms),
        height,
        width,
        tile=TILE,
        overlap=OVERLAP,
        scale=first.shape[2] // rows,
    )


def _within_a_tile(height: int, width: int) -> tuple[int, int]:
    """Rows and columns, in proportion as far as they can be, of as many cells as a tile has at most."""
    most = TILE**2
    rows = int(height * min(1.0, (most / (height * width)) ** 0.5))
    rows = min(max(rows, 1), most)
    return rows, min(max(most // rows, 1), width)


class _Norms:
    """Group norms whose statistics are those of the first tensor that each of them sees."""

    def __init__(self) -> None:
        self._found: dict[nn.GroupNorm, tuple[Tensor, Tensor]] = {}  # scale and shift `[C, 1, 1]`

    def __call__(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        if norm not in self._found:
            variance, mean = torch.var_mean(x[0].float().reshape(norm.num_groups, -1), dim=1, correction=0)
            each = norm.num_channels // norm.num_groups
            scale = (variance + norm.eps).rsqrt().repeat_interleave(each) * norm.weight.float()
            shift = norm.bias.float() - mean.repeat_interleave(each) * scale
            self._found[norm] = scale[:, None, None], shift[:, None, None]
        scale, shift = self._found[norm]
        return torch.addcmul(shift, x.float(), scale).to(x.dtype)


def _levels(decoder: Any, x: Tensor, norms: _Norms) -> Tensor:
    """The decoder behind its middle block."""
    for level in decoder.up_blocks:
        for block in level.resnets:
            inner = block.conv1(block.nonlinearity(norms(block.norm1, x)))
            inner = block.conv2(block.nonlinearity(norms(block.norm2, inner)))
            x = (x if block.conv_shortcut is None else block.conv_shortcut(x)) + inner
        for layer in level.upsamplers or ():
            x = layer(x)
    out: Tensor = decoder.conv_out(decoder.conv_act(norms(decoder.conv_norm_out, x)))
    return out
