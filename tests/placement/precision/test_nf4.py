"""NF4: its levels by hand, its bytes read by bitsandbytes, and how far off it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from velatura.placement.precision import nf4


def test_by_hand() -> None:
    """Values that are levels are found again, by the scale that makes them so; two share a byte, the first high."""
    weight = torch.zeros(2, 128)
    weight[0, :64] = 8 * torch.tensor(nf4.LEVELS).repeat(4)
    weight[1, 64] = -2.0
    values, scale = nf4.quantise(weight)
    assert values.shape == (2, 64)
    assert values[0, :32].tolist() == [code << 4 | code + 1 for code in range(0, 16, 2)] * 4
    assert torch.equal(scale.abs(), torch.tensor([[8.0, 0.0], [0.0, 2.0]], dtype=torch.bfloat16))
    assert torch.equal(widened(values, scale), weight)


def test_a_scale_is_fitted_to_all_values_of_its_block() -> None:
    """The nearest levels by a scale, and the scale of least squares for these: no far start leaves much less."""
    torch.manual_seed(3)
    weight = torch.randn(200, nf4.BLOCK)
    wide = widened(*nf4.quantise(weight))
    levels = torch.tensor(nf4.LEVELS)
    least = torch.full((200,), torch.inf)
    for factor in (*torch.linspace(0.5, 1.1, 200), *-torch.linspace(0.5, 1.1, 200)):
        scales = weight.abs().amax(dim=1, keepdim=True) * factor
        nearest = levels[(weight[..., None] / scales[..., None] - levels).abs().argmin(dim=-1)] * scales
        least = torch.minimum(least, (nearest - weight).square().sum(dim=1))
    found = (wide - weight).square().sum(dim=1)
    assert float((found / least).mean()) < 1.1
    largest = (by_largest(weight) - weight).square().sum(dim=1)
    assert bool((found <= 1.01 * largest).all())  # 1.01: a scale's rounding
    assert float((found / largest).mean()) < 0.88


def test_small_and_large_weights_keep_their_size() -> None:
    torch.manual_seed(4)
    weight = torch.randn(2, nf4.BLOCK) * torch.tensor([1e-15, 1e15])[:, None]
    wide = widened(*nf4.quantise(weight))
    assert bool(((wide - weight).norm(dim=1) / weight.norm(dim=1) < 0.11).all())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_stays_so_in_its_block(wrong: float) -> None:
    weight = torch.ones(1, 2 * nf4.BLOCK)
    weight[0, 3] = wrong
    wide = widened(*nf4.quantise(weight))
    assert not wide[0, : nf4.BLOCK].isfinite().any()
    assert torch.equal(wide[0, nf4.BLOCK :], torch.ones(nf4.BLOCK))


def test_shapes_are_known_without_values() -> None:
    values, scale = nf4.quantise(torch.empty(3, 100, device="meta"))
    real, real_scale = nf4.quantise(torch.ones(3, 100))
    assert (values.shape, values.dtype, scale.shape, scale.dtype) == (
        real.shape,
        real.dtype,
        real_scale.shape,
        real_scale.dtype,
    )


def test_rows_that_are_no_whole_blocks() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 100) * torch.tensor([1.0, 10.0, 100.0])[:, None]
    values, scale = nf4.quantise(weight)
    assert (values.shape, scale.shape) == ((3, 50), (3, 2))
    error = (widened(values, scale) - weight).norm(dim=1) / weight.norm(dim=1)
    assert bool((error < 0.11).all())
    with pytest.raises(ValueError, match="rows of 7 have an odd one"):
        nf4.quantise(torch.ones(2, 7))


def test_normal_weights_are_a_twelfth_off() -> None:
    torch.manual_seed(1)
    weight = torch.randn(64, 512)
    wide = widened(*nf4.quantise(weight))
    assert 0.08 < float((wide - weight).norm() / weight.norm()) < 0.088


def test_bitsandbytes_reads_the_same_levels() -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    torch.manual_seed(2)
    weight = torch.randn(96, 256) * torch.rand(96, 1)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", blocksize=nf4.BLOCK)
    theirs = functional.dequantize_4bit(packed, state)
    torch.testing.assert_close(by_largest(weight.view(-1, nf4.BLOCK)).view_as(weight), theirs)
    values, scale = nf4.quantise(weight)
    state.absmax = scale.flatten().float()
    as_read = functional.dequantize_4bit(values.view_as(packed), state)
    torch.testing.assert_close(as_read, widened(values, scale))


def widened(values: Tensor, scale: Tensor) -> Tensor:
    return nf4.widened(values, scale, nf4.pairs(values.device), torch.float32)


def by_largest(blocks: Tensor) -> Tensor:
    """Blocks `[n, 64]` by the levels nearest to them where the largest value is a level, as QLoRA has it."""
    levels = torch.tensor(nf4.LEVELS)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    return levels[((blocks / scale)[..., None] - levels).abs().argmin(dim=-1)] * scale
