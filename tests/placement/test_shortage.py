"""Errors that mean that memory ran out, and others."""

from __future__ import annotations

import pytest
import torch

from velatura.placement.shortage import is_shortage


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_which_errors_are_a_shortage(error: Exception, short: bool) -> None:
    assert is_shortage(error) is short


def test_what_torchs_cpu_allocator_raises_is_one() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_shortage(caught.value)
