"""NF4, four bits a value: sixteen levels that fit normal values, scaled by the largest of each 64.

From QLoRA (arXiv:2305.14314). Levels, blocks and their packing are those of bitsandbytes, and no package is needed: a
table of all pairs of levels widens a byte at a time. Scales are in fp16, half the size of theirs.
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


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`[out, in]`, `in` even -> uint8 `[out, in / 2]`, the first of two values in the high half; a scale per block."""
    rows, columns = weight.shape
    if columns % 2:
        raise ValueError(f"NF4 holds two values a byte, and rows of {columns} have an odd one")
    blocks = F.pad(weight.float(), (0, -columns % BLOCK)).view(rows, -1, BLOCK)
    scale = blocks.abs().amax(dim=2)
    levels = torch.tensor(LEVELS, device=weight.device)
    relative = blocks / torch.where(scale > 0, scale, 1.0)[..., None]
    codes = torch.bucketize(relative, (levels[1:] + levels[:-1]) / 2, out_int32=True)
    codes = codes.view(rows, -1)[:, :columns].to(torch.uint8)
    return codes[:, ::2] << 4 | codes[:, 1::2], scale.half()


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
