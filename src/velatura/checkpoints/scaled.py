"""fp8 files that carry scales: `W = stored * scale`, applied while reading, unless what is stored is asked for.

Three names are in use beside a weight `x.weight`: `x.scale_weight` (ComfyUI; with a marker tensor `scaled_fp8`),
`x.weight_scale` and `x.weight_scale_inv`. A scale is one number, one per row, or one per block: a part of a row,
`[n, blocks]` or `[n, blocks, 1]`, or a tile, mostly of 128 x 128. Input scales steer fp8 matmuls and are not needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from velatura.checkpoints.checkpoint import Checkpoint, Rows, TensorInfo
from velatura.errors import CheckpointError

_SCALES = (".scale_weight", ".weight_scale", ".weight_scale_inv")
_TILE = 128  # rows and columns of a tile; those at the end may be smaller
_HIDDEN = (".scale_input", ".input_scale", ".comfy_quant")
_MARKER = "scaled_fp8"
_RESULT = torch.bfloat16  # the smallest dtype with the range of stored * scale
_SCALABLE = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.bfloat16,  # layers that a file left unquantised may carry a scale of 1
    torch.float16,
    torch.float32,
)


def with_scales_applied(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself, or a view of it without its scales whose weights read as what they stand for."""
    if not any(key.endswith(_SCALES) for key in checkpoint):
        return checkpoint
    return _Scaled(checkpoint)


class _Scaled(Checkpoint):
    def __init__(self, base: Checkpoint) -> None:
        self._base = base
        self._scales: dict[str, str] = {}
        self._blocks: dict[str, tuple[int, int]] = {}  # rows and columns that share a scale
        for key in base:
            for ending in _SCALES:
                if key.endswith(ending):
                    self._scales[key.removesuffix(ending) + ".weight"] = key
        for weight, scale in self._scales.items():
            self._blocks[weight] = self._checked(weight, scale)
        hidden = {*self._scales.values(), *(key for key in base if key.endswith(_HIDDEN))}
        kept = {
            k: info for k, info in base.tensors.items() if k not in hidden and k.rpartition(".")[2] != _MARKER
        }
        applied = {key: TensorInfo(shape=base.shape(key), dtype=_RESULT) for key in self._scales}
        super().__init__({**kept, **applied}, name=base.name, paths=base.paths, metadata=base.metadata)

    def in_fp8(self, key: str) -> bool:
        columns = self._blocks.get(key, (1, 1))[1]
        return self._base.in_fp8(key) and self.shape(key)[1] % columns == 0

    def read_fp8(
        self, key: str, *, rows: Rows | None = None, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        values, ones = self._base.read_fp8(key, rows=rows, device=device)
        if key not in self._scales:
            return values, ones
        return values, ones * self._scale(key, rows or self.info(key).all_rows, device)

    def close(self) -> None:
        self._base.close()

    def _checked(self, weight: str, scale: str) -> tuple[int, int]:
        name, base = self._base.name, self._base
        if weight not in base or base.dtype(weight) not in _SCALABLE:
            found = str(base.dtype(weight)) if weight in base else "nothing"
            raise CheckpointError(
                f"{name}: '{scale}' wants an fp8 tensor '{weight}' beside it, found {found}."
            )
        shape = base.shape(scale)
        block = _block(base.shape(weight), base.info(weight).all_rows[1], shape)
        if block is None:
            raise CheckpointError(
                f"{name}: '{scale}' has shape {shape}, expected one scale, or one per row or block of '{weight}' "
                f"{base.shape(weight)}. Get the unscaled file."
            )
        return block

    def _read(self, key: str, rows: Rows, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        if key not in self._scales:
            return self._base.read(key, rows=rows, dtype=dtype, device=device)
        scale = self._scale(key, rows, device)
        values = self._base.read(key, rows=rows, dtype=torch.float32, device=device)
        if scale.shape[1] > 1:
            scale = scale.repeat_interleave(self._blocks[key][1], dim=1)[:, : values.shape[1]]
            return values.mul_(scale).to(dtype)
        by_row = (-1, *[1] * (values.dim() - 1)) if values.dim() else ()
        return values.mul_(scale.reshape(by_row)).to(dtype)

    def _scale(self, key: str, rows: Rows, device: torch.device | str) -> Tensor:
        """Of each row its blocks' scales, `[rows, blocks]`, or `[1, 1]` where there is one for all: float32."""
        scale = self._base.read(self._scales[key], dtype=torch.float32, device=device)
        if scale.numel() < 2:
            return scale.reshape(-1, 1)
        height, _ = self._blocks[key]
        per_block = scale.reshape(-(-self.info(key).all_rows[1] // height), -1)
        return per_block[torch.arange(*rows, device=device) // height]


def _block(weight: tuple[int, ...], rows: int, scale: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows and columns of the blocks that have a scale each; None where the shapes do not fit."""
    columns = math.prod(weight[1:])
    count = math.prod(scale)
    if count == 1:
        return max(rows, 1), max(columns, 1)
    if count == rows and (len(scale) <= 1 or 1 in scale):
        return 1, max(columns, 1)
    if len(scale) == 3 and scale[2] == 1:
        scale = scale[:2]
    if len(scale) != 2 or len(weight) != 2 or not count:
        return None
    height, width = map(_edge, weight, scale)
    return None if height is None or width is None else (height, width)


def _edge(size: int, number: int) -> int | None:
    """Of each of so many blocks; None where there can be none."""
    if -(-size // _TILE) == number:
        return min(_TILE, size)
    return size // number if size and size % number == 0 else None
