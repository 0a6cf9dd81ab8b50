"""Values that a file, or a narrower dtype, cannot hold: NaN, infinity, and what would become infinity."""

from __future__ import annotations

import torch
from torch import Tensor

from velatura.errors import NumericError

_SHORT = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


def narrowed(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """`tensor` in `dtype`. Raises NumericError, as `check_fits` does, where that would not be the same numbers."""
    check_fits(tensor, dtype, name)
    return tensor.to(dtype)


def check_fits(tensor: Tensor, dtype: torch.dtype | None, name: str) -> None:
    """Raise NumericError, naming the tensor, for NaN and infinity, now or once it is in `dtype`; None: its own."""
    if not tensor.is_floating_point() or not tensor.numel():
        return
    low, high = (tensor if tensor.itemsize > 1 else tensor.float()).detach().aminmax()  # NaN goes through
    largest = torch.maximum(-low, high)
    if not torch.isfinite(largest):
        raise NumericError(
            f"'{name}' holds NaN or infinity, which makes a model useless: it is not written. If it was read from a "
            "file, get that again; if it was trained, go back to an earlier state and lower the learning rate."
        )
    if dtype is not None and not torch.isfinite(largest.to(dtype)):
        raise NumericError(
            f"'{name}' has a value as large as {largest.item():.6g}; {_SHORT.get(dtype, dtype)} ends at "
            f"{torch.finfo(dtype).max:g}. Use bf16 or fp32 instead."
        )
