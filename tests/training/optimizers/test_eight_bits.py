"""Values on 256 levels: how far off they may be follows from the distance of the levels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor

from velatura.planning.replay import VALUELESS
from velatura.training.optimizers.eight_bits import (
    BLOCK,
    SIGNED,
    UNSIGNED,
    Kind,
    codebook,
    levels,
    pack,
    unpack,
)

CPU = torch.device("cpu")


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
    codes, scales = pack(values, codebook(kind, CPU))
    assert codes.shape == values.shape
    assert codes.dtype == torch.uint8
    assert scales.shape == (12,)
    error = (unpack(codes, scales, codebook(kind, CPU)) - values).abs().flatten()
    limit = 0.9 / (64 if kind == "signed" else 128) / 2
    padded = scales.repeat_interleave(BLOCK)[: values.numel()]
    assert bool((error <= limit * padded * 1.001).all())
    assert error[values.abs().flatten()[:BLOCK].argmax()] < 1e-3 * padded[0] or kind == "signed"


def test_zeros_stay_zeros() -> None:
    book = codebook(SIGNED, CPU)
    codes, scales = pack(torch.zeros(5, 7), book)
    assert torch.equal(unpack(codes, scales, book), torch.zeros(5, 7))


def test_packing_again_changes_nothing() -> None:
    """What was read from a state is what was written."""
    values = torch.randn(600, generator=torch.Generator().manual_seed(1)).abs()
    book = codebook(UNSIGNED, CPU)
    once = unpack(*pack(values, book), book)
    assert torch.equal(unpack(*pack(once, book), book), once)


@pytest.mark.parametrize("kind", [SIGNED, UNSIGNED])
def test_codes_are_those_of_a_search(kind: Kind) -> None:
    """Of numbers of every size, of all boundaries, and of their neighbours."""
    book = codebook(kind, CPU)
    between = book.between[:-1]
    generator = torch.Generator().manual_seed(0)
    near = [torch.nextafter(between, torch.tensor(way)) for way in (-9.0, 9.0)]
    values = torch.cat(
        [
            between,
            *near,
            torch.linspace(-1, 1, 300_000),
            torch.randn(300_000, generator=generator).clamp(-1, 1) ** 9,
            torch.tensor([0.0, -0.0, 1e-40, -1e-40]),
        ]
    )
    values = values if kind == SIGNED else values.abs()
    rows = F.pad(values, (0, -values.numel() % (BLOCK - 1))).view(-1, BLOCK - 1)
    rows = F.pad(rows, (0, 1), value=1.0)  # the scale of every block
    codes, scales = pack(rows, book)
    assert scales.eq(1).all()
    assert torch.equal(codes.long(), torch.bucketize(rows, between))


def test_a_plan_leaves_tables_with_values() -> None:
    """Runs are planned and trained in one process, on the same device."""
    with VALUELESS:
        codes, scales = pack(torch.ones(BLOCK), codebook(SIGNED, CPU))
    assert isinstance(codes, FakeTensor)
    assert not any(isinstance(table, FakeTensor) for table in codebook(SIGNED, CPU))
    codes, scales = pack(torch.full((BLOCK,), 3.0), codebook(SIGNED, CPU))
    assert torch.equal(unpack(codes, scales, codebook(SIGNED, CPU)), torch.full((BLOCK,), 3.0))
