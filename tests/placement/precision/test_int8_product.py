"""Products of 8-bit integers are exact, however long the sums."""

from __future__ import annotations

import pytest
import torch

from velatura.placement.precision.int8_product import int8_product


@pytest.mark.parametrize("k", [1, 5, 1024, 1025, 5000])
def test_sums_are_exact(k: int) -> None:
    a = torch.full((3, k), 127, dtype=torch.int8)
    b = torch.full((k, 2), -127, dtype=torch.int8)
    b[0, 0] = 1
    wanted = a.double() @ b.double()
    assert torch.equal(int8_product(a, b), wanted.float())


@pytest.mark.gpu
@pytest.mark.parametrize(("m", "k", "n"), [(1, 64, 64), (17, 24, 40), (33, 100, 7), (64, 2048, 3072)])
def test_the_gpu_agrees(m: int, k: int, n: int) -> None:
    torch.manual_seed(0)
    a, b = (
        torch.randint(-127, 128, (m, k), dtype=torch.int8),
        torch.randint(-127, 128, (n, k), dtype=torch.int8),
    )
    for other in (b.t(), b.t().contiguous()):
        assert torch.equal(int8_product(a.cuda(), other.cuda()).cpu().float(), int8_product(a, other))
