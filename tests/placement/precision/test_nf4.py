"""NF4: its levels by hand, its bytes against bitsandbytes, and how far off it is."""

from __future__ import annotations

import pytest
import torch

from velatura.placement.precision import nf4


def test_by_hand() -> None:
    """The largest of a block is a level, so is zero; two neighbours share a byte, the first in the high half."""
    weight = torch.zeros(2, 128)
    weight[0, :4] = torch.tensor(
        [8.0, -8.0, 8 * 0.75, 8 * 0.6]
    )  # between 0.5626 and 0.7230, nearest: 0.7230, 0.5626
    weight[1, 64] = -2.0
    values, scale = nf4.quantise(weight)
    assert values.shape == (2, 64)
    assert values[0, :3].tolist() == [15 << 4 | 0, 14 << 4 | 13, 7 << 4 | 7]
    assert torch.equal(scale, torch.tensor([[8.0, 0.0], [0.0, 2.0]], dtype=torch.float16))
    wide = nf4.widened(values, scale, nf4.pairs(weight.device), torch.float32)
    expected = torch.zeros(2, 128)
    expected[0, :4] = torch.tensor([8.0, -8.0, 8 * nf4.LEVELS[14], 8 * nf4.LEVELS[13]])
    expected[1, 64] = -2.0
    assert torch.equal(wide, expected)


def test_rows_that_are_no_whole_blocks() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 100) * torch.tensor([1.0, 10.0, 100.0])[:, None]
    values, scale = nf4.quantise(weight)
    assert (values.shape, scale.shape) == ((3, 50), (3, 2))
    wide = nf4.widened(values, scale, nf4.pairs(weight.device), torch.float32)
    largest = weight.abs().amax(dim=1, keepdim=True)
    assert bool(
        ((wide - weight).abs() <= 0.153 * largest).all()
    )  # half of the widest gap, and a scale's rounding
    with pytest.raises(ValueError, match="rows of 7 have an odd one"):
        nf4.quantise(torch.ones(2, 7))


def test_normal_weights_are_a_tenth_off() -> None:
    torch.manual_seed(1)
    weight = torch.randn(64, 512)
    wide = nf4.widened(*nf4.quantise(weight), nf4.pairs(weight.device), torch.float32)
    assert 0.08 < float((wide - weight).norm() / weight.norm()) < 0.10


def test_the_bytes_are_those_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    torch.manual_seed(2)
    weight = torch.randn(96, 256) * torch.rand(96, 1)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", blocksize=nf4.BLOCK)
    values, scale = nf4.quantise(weight)
    assert torch.equal(values.flatten(), packed.flatten())
    assert torch.equal(scale.flatten(), state.absmax.half())
    theirs = functional.dequantize_4bit(packed, state)
    wide = nf4.widened(values, scale, nf4.pairs(weight.device), torch.float32)
    torch.testing.assert_close(wide, theirs, rtol=2**-11, atol=0)  # a scale's rounding to fp16
