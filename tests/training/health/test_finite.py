"""Numbers that are not finite are found wherever they are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from velatura.interfaces import Parts
from velatura.training.health.finite import all_finite, broken_weights


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_value_among_many(bad: float, dtype: torch.dtype) -> None:
    tensors = [torch.randn(7, 300).to(dtype), torch.zeros(0), torch.tensor(1e18), torch.randn(5).to(dtype)]
    assert all_finite(tensors)
    tensors[0][3, 299] = bad
    assert not all_finite(tensors)


def test_nothing_is_finite() -> None:
    assert all_finite([])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
def test_broken_buffers_and_weights_of_any_part(dtype: torch.dtype) -> None:
    module = nn.Linear(3, 3)
    module.register_buffer("held", torch.ones(4).to(dtype))
    module.register_buffer("counts", torch.ones(4, dtype=torch.int64))
    parts = Parts(info=None, text_encoders=(nn.Linear(2, 2), module))  # type: ignore[arg-type]
    assert broken_weights([], parts) == ""
    held = torch.ones(4)
    held[2] = math.nan
    module.held = held.to(dtype)
    assert "weights of the text encoders are not finite (1 tensor is, the first is held)" in broken_weights(
        [], parts
    )
    assert "the trained weights were not finite" in broken_weights([held], parts)
