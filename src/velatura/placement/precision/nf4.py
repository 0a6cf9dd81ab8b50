"""NF4, four bits a value: sixteen levels that fit normal values, and a scale for each 64.

From QLoRA (arXiv:2305.14314). Levels, blocks and their packing are those of bitsandbytes, and no package is needed: a
table of all pairs of levels widens a byte at a time. Scales are fitted to all values of a block, where theirs are its
largest value, which takes a tenth off the error; they are in bf16, half the size of theirs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 64  # values of a row that share a scale
LEVELS = (  # appendix E there
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
# scales from which a fit begins, by the largest value of a block; levels are not symmetric, so signs differ
STARTS = (1.0, -1.0, 0.85, -0.85)
_CHUNK = 4096  # blocks that are fitted at a time, so that they stay in a processor's cache
_CELLS = 2**14  # that -1..1 is divided into


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`[out, in]`, `in` even -> uint8 `[out, in / 2]`, the first of two values in the high half; a scale per block."""
    rows, columns = weight.shape
    if columns % 2:
        raise ValueError(f"NF4 holds two values a byte, and rows of {columns} have an odd one")
    blocks = F.pad(weight.float(), (0, -columns % BLOCK)).view(-1, BLOCK)
    if weight.is_meta:
        codes, scale = blocks.to(torch.uint8), blocks[:, 0].bfloat16()
    else:
        tables = _tables(weight.device)
        fitted = [_fitted(chunk, *tables) for chunk in blocks.split(_CHUNK)]
        codes, scale = (torch.cat(parts) for parts in zip(*fitted, strict=True))
    codes = codes.view(rows, -1)[:, :columns]
    return codes[:, ::2] << 4 | codes[:, 1::2], scale.view(rows, -1)


def _fitted(blocks: Tensor, codes: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, uint8 `[n, 64]`, and scales, bf16 `[n]`, of blocks `[n, 64]`; with the tables of `_tables`.

    From each start: the levels l nearest to the values v, then the scale of least squares, v.l / l.l, which leaves
    |v|^2 - (v.l)^2 / l.l of the error. The best of these scales is taken, and the levels nearest then.
    """
    largest = blocks.abs().amax(dim=1)
    relative = blocks / _divisor(largest)
    scale, most = torch.zeros_like(largest), torch.full_like(largest, -1.0)
    for start in STARTS:
        near = _looked_up(levels, relative / start)
        # the largest value has the level 1 or -1, but in blocks of zeros
        length = near.square().sum(dim=1).clamp(min=1.0)
        along = (relative * near).sum(dim=1)
        explained = along.square() / length
        better = ~(explained <= most)  # so that NaN stays
        scale, most = torch.where(better, along / length, scale), torch.where(better, explained, most)
    scale = (scale * largest).bfloat16()
    return _looked_up(codes, blocks / _divisor(scale.float())), scale


def _divisor(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1.0, scale)[:, None]


def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """The code, uint8, and the level nearest to the middle of each cell of -1..1: a search in their place takes longer.

    A value within a cell of the bound between two levels may be given either.
    """
    levels = torch.tensor(LEVELS, device=device)
    middles = (torch.arange(_CELLS, device=device) + 0.5) * (2 / _CELLS) - 1
    codes = torch.bucketize(middles, (levels[1:] + levels[:-1]) / 2, out_int32=True)
    return codes.to(torch.uint8), levels[codes]


def _looked_up(table: Tensor, relative: Tensor) -> Tensor:
    """The entries of a table of cells for values `[n, 64]`; those beyond -1..1 have the first or the last."""
    cell = ((relative + 1) * (_CELLS / 2)).int().clamp_(0, _CELLS - 1)
    return table.index_select(0, cell.flatten()).view_as(relative)


def pairs(device: torch.device) -> Tensor:
    """The two values that each byte stands for, `[256, 2]` float32."""
    levels = torch.tensor(LEVELS, device=device)
    return torch.stack((levels.repeat_interleave(16), levels.repeat(16)), dim=1)


def widened(values: Tensor, scale: Tensor, table: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight `[out, in]` in a dtype that can be computed with; `table`: `pairs`."""
    wide = F.embedding(values.int(), table.to(dtype)).flatten(1)
    if wide.shape[1] % BLOCK:
        return wide.mul_(scale.repeat_interleave(BLOCK, dim=1)[:, : wide.shape[1]])
    wide.unflatten(1, (-1, BLOCK)).mul_(scale[..., None])
    return wide
