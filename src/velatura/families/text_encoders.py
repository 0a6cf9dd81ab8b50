"""Text encoders as a run or a request wants them: to be trained, or frozen and as fast as the device makes them."""

from __future__ import annotations

import torch

from velatura.interfaces import Family, ModelFiles, Parts
from velatura.placement.precision.emulated import compute_in_float32, is_emulated


def load_text_encoders(
    family: Family,
    files: ModelFiles,
    *,
    device: torch.device,
    dtype: torch.dtype,
    frozen: bool = True,
    seed: int = 0,
) -> Parts:
    """The text encoders in `dtype` with their tokenizers.

    Frozen ones: layers of an fp8 file are held as they are stored, and what the device would emulate is computed in
    float32. Raises as `Family.load` does.
    """
    parts = family.load(files, ["text_encoders"], device=device, dtype=dtype, seed=seed, keep_fp8=frozen)
    if frozen and is_emulated(dtype, device):
        compute_in_float32(parts.modules("text_encoders"))
    return parts
