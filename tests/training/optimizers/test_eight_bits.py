"""Values on 256 levels: how far off they may be follows from the distance of the levels."""

from __future__ import annotations

import pytest
import torch

from velatura.training.optimizers.eight_bits import BLOCK, SIGNED, UNSIGNED, Kind, levels, pack, unpack


@pytest.mark.parametrize(("kind", "below_one"), [(SIGNED, 64), (UNSIGNED, 128)])
def test_there_are_256_levels_half_as_many_in_each_decade_below(kind: Kind, below_one: int) -> None:
    found = levels(kind)
    assert found.unique().numel() == 256
    assert {0.0, 1.0} <= set(found.tolist())
    counts = [int(((found > 10.0**-n / 10) & (found < 10.0**-n)).sum()) for n in range(7)]
    assert counts == [below_one // 2**n for n in range(7)]


@pytest.mark.parametrize("kind", [SIGNED, UNSIGNED])
def test_the_error_is_at_most_half_the_distance_of_the_levels(kind: Kind) -> None:
    """Between 0.1 and 1 levels are 0.9 / 64 apart (signed), and the largest of a block is exact."""
    values = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    values = values if kind == "signed" else values.abs()
    values[0, :BLOCK] *= 1000  # a block of its own
    codes, scales = pack(values, kind)
    assert codes.shape == values.shape
    assert codes.dtype == torch.uint8
    assert scales.shape == (12,)
    error = (unpack(codes, scales, kind) - values).abs().flatten()
    limit = 0.9 / (64 if kind == "signed" else 128) / 2
    padded = scales.repeat_interleave(BLOCK)[: values.numel()]
    assert bool((error <= limit * padded * 1.001).all())
    assert error[values.abs().flatten()[:BLOCK].argmax()] < 1e-3 * padded[0] or kind == "signed"


def test_zeros_stay_zeros() -> None:
    codes, scales = pack(torch.zeros(5, 7), SIGNED)
    assert torch.equal(unpack(codes, scales, SIGNED), torch.zeros(5, 7))


def test_packing_again_changes_nothing() -> None:
    """What was read from a state is what was written."""
    values = torch.randn(600, generator=torch.Generator().manual_seed(1)).abs()
    once = unpack(*pack(values, UNSIGNED), UNSIGNED)
    assert torch.equal(unpack(*pack(once, UNSIGNED), UNSIGNED), once)
