from __future__ import annotations

import math

import pytest
import torch

from velatura.checkpoints.finite import check_fits, narrowed
from velatura.errors import NumericError


@pytest.mark.parametrize("value", [65504.0, -65504.0, 65519.0, 0.0, 1e-9])  # up to 65520 rounds to 65504
def test_what_fits_is_rounded(value: float) -> None:
    found = narrowed(torch.tensor([1.0, value]), torch.float16, "x")
    assert found.dtype == torch.float16
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("value", [65520.0, -7e4, 1e30])
def test_what_would_become_infinite_is_refused_with_its_size_and_a_remedy(value: float) -> None:
    with pytest.raises(NumericError) as caught:
        narrowed(torch.tensor([[1.0, value]]), torch.float16, "blocks.3.up")
    said = str(caught.value)
    assert said == (
        f"'blocks.3.up' has a value as large as {abs(value):.6g}; fp16 ends at 65504. Use bf16 or fp32 instead."
    )
    assert torch.isfinite(narrowed(torch.tensor([value]), torch.bfloat16, "x")).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_nan_and_infinity_are_refused_in_every_dtype(value: float, dtype: torch.dtype) -> None:
    tensor = torch.tensor([0.5, value, 1.0]).to(dtype)
    with pytest.raises(NumericError, match="'x' holds NaN or infinity"):
        check_fits(tensor, None, "x")


def test_integers_and_empty_tensors_have_nothing_to_check() -> None:
    check_fits(torch.tensor([2**40]), torch.float16, "x")
    check_fits(torch.zeros(0, 3), torch.float16, "x")
