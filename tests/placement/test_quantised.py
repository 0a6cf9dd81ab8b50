"""8-bit storage of frozen weights: how far off, what it saves, and that gradients are those of the widened weights."""

from __future__ import annotations

import torch
from torch import nn

from velatura.adapters.lora import Down, LoraLinear
from velatura.placement.quantised import Fp8Linear, quantise, quantise_blocks, widened


def test_rows_are_scaled_by_themselves_and_every_value_is_within_e4m3s_rounding() -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 64) * torch.logspace(-4, 3, 16)[:, None]  # rows of very different size
    values, scale = quantise(weight)
    back = widened(values, scale, torch.float32)
    step = torch.maximum(
        weight.abs() * 2**-4, scale * 2**-10
    )  # 3 mantissa bits; below 2^-6 the steps are equal
    assert bool(((back - weight).abs() <= step).all())
    assert torch.allclose(back.abs().amax(1), weight.abs().amax(1))  # the largest value of a row is exact
    assert torch.equal(quantise(torch.zeros(2, 3))[0].float(), torch.zeros(2, 3))


def test_output_and_gradient_are_those_of_the_widened_weight() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(24, 40)
    small = Fp8Linear(layer)
    x = torch.randn(2, 5, 24, requires_grad=True)
    wide = widened(small.weight, small.scale, torch.float32)
    out = small(x)
    assert torch.allclose(out, x @ wide.t() + layer.bias, atol=1e-6)
    out.square().sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, 2 * out.detach() @ wide, atol=1e-5)
    error = (out - layer(x)).norm() / layer(x).norm()
    assert float(error.detach()) < 0.04


def test_blocks_are_replaced_and_take_a_quarter_of_fp32() -> None:
    block = nn.Sequential(
        nn.Linear(64, 64, bias=False), nn.Sequential(nn.GELU(), nn.Linear(64, 32, bias=False))
    )
    before = sum(p.numel() * p.element_size() for p in block.parameters())
    assert quantise_blocks([block]) == 2
    assert not list(block.parameters())
    after = sum(b.numel() * b.element_size() for b in block.buffers())
    assert after == before // 4 + 4 * (64 + 32)  # one byte a value, and four for each row's scale


def test_a_lora_learns_on_top() -> None:
    torch.manual_seed(2)
    base = Fp8Linear(nn.Linear(8, 8))
    layer = LoraLinear(base, Down(torch.randn(2, 8)), torch.zeros(8, 2), alpha=2.0)
    x = torch.randn(4, 8)
    assert torch.equal(layer(x), base(x))
    layer(x).sum().backward()
    assert layer.up.grad is not None
    assert torch.allclose(layer.up.grad, torch.ones(8, 4) @ (x @ layer.down.weight.t()), atol=1e-5)
