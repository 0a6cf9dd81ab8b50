"""fp8 files that carry scales: `W = stored * scale`, applied while reading, unless what is stored is asked for.

Two conventions are in use beside a weight `x.weight`: `x.scale_weight` (ComfyUI; with a marker tensor
`scaled_fp8`) and `x.weight_scale`. A scale is one number, or one per row. Input scales steer fp8 matmuls and
are not needed here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from velatura.checkpoints.checkpoint import Checkpoint, Rows, TensorInfo
from velatura.errors import CheckpointError

_SCALES = (".scale_weight", ".weight_scale")
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
        for key in base:
            for ending in _SCALES:
                if key.endswith(ending):
                    self._scales[key.removesuffix(ending) + ".weight"] = key
        for weight, scale in self._scales.items():
            self._check(weight, scale)
        hidden = {*self._scales.values(), *(key for key in base if key.endswith(_HIDDEN))}
        kept = {
            k: info for k, info in base.tensors.items() if k not in hidden and k.rpartition(".")[2] != _MARKER
        }
        applied = {key: TensorInfo(shape=base.shape(key), dtype=_RESULT) for key in self._scales}
        super().__init__({**kept, **applied}, name=base.name, paths=base.paths, metadata=base.metadata)

    def in_fp8(self, key: str) -> bool:
        return self._base.in_fp8(key)

    def read_fp8(
        self, key: str, *, rows: Rows | None = None, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        values, ones = self._base.read_fp8(key, rows=rows, device=device)
        if key not in self._scales:
            return values, ones
        return values, ones * self._scale(key, rows or self.info(key).all_rows, device)[:, None]

    def close(self) -> None:
        self._base.close()

    def _check(self, weight: str, scale: str) -> None:
        name, base = self._base.name, self._base
        if weight not in base or base.dtype(weight) not in _SCALABLE:
            found = str(base.dtype(weight)) if weight in base else "nothing"
            raise CheckpointError(
                f"{name}: '{scale}' wants an fp8 tensor '{weight}' beside it, found {found}."
            )
        shape = base.shape(scale)
        if math.prod(shape) not in (1, base.info(weight).all_rows[1]):
            raise CheckpointError(
                f"{name}: '{scale}' has shape {shape}, expected one scale, or one per row of '{weight}'. "
                "Block-wise scales are not read: get the unscaled file."
            )

    def _read(self, key: str, rows: Rows, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        if key not in self._scales:
            return self._base.read(key, rows=rows, dtype=dtype, device=device)
        scale = self._scale(key, rows, device)
        values = self._base.read(key, rows=rows, dtype=torch.float32, device=device)
        by_row = (-1, *[1] * (values.dim() - 1)) if values.dim() else ()
        return values.mul_(scale.reshape(by_row)).to(dtype)

    def _scale(self, key: str, rows: Rows, device: torch.device | str) -> Tensor:
        """One for all rows, or one for each: float32."""
        scale = self._base.read(self._scales[key], dtype=torch.float32, device=device).flatten()
        return scale if scale.numel() == 1 else scale[slice(*rows)]
