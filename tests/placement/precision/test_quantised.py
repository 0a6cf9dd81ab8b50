"""Frozen weights in few bits: how far off, what it saves, and that gradients are those of the widened weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from velatura.adapters.lora import Down, LoraLinear
from velatura.placement.compiling import compile_blocks
from velatura.placement.precision import nf4
from velatura.placement.precision.quantised import (
    LINEARS,
    Fp8Linear,
    Int8Linear,
    Nf4Linear,
    QuantisedLinear,
    quantise_blocks,
    widened,
)


def test_rows_are_scaled_by_themselves_and_every_value_is_within_e4m3s_rounding() -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 64) * torch.logspace(-4, 3, 16)[:, None]  # rows of very different size
    values, scale = Fp8Linear.quantise(weight)
    back = widened(values, scale, torch.float32)
    step = torch.maximum(
        weight.abs() * 2**-4, scale * 2**-10
    )  # 3 mantissa bits; below 2^-6 the steps are equal
    assert bool(((back - weight).abs() <= step).all())
    assert torch.equal(Fp8Linear.quantise(torch.zeros(2, 3))[0].float(), torch.zeros(2, 3))


def test_weights_that_were_fp8_stay_as_they_are() -> None:
    torch.manual_seed(7)
    weight = (torch.randn(8, 64) * torch.logspace(-2, 2, 8)[:, None]).to(torch.float8_e4m3fn).float()
    assert torch.equal(widened(*Fp8Linear.quantise(weight), torch.float32), weight)


def test_output_and_gradient_are_those_of_the_widened_weight() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(24, 40)
    small = Fp8Linear.of(layer)
    x = torch.randn(2, 5, 24, requires_grad=True)
    wide = widened(small.values, small.scale, torch.float32)
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
    base = Fp8Linear.of(nn.Linear(8, 8))
    layer = LoraLinear(base, Down(torch.randn(2, 8)), torch.zeros(8, 2), alpha=2.0)
    x = torch.randn(4, 8)
    assert torch.equal(layer(x), base(x))
    layer(x).sum().backward()
    assert layer.up.grad is not None
    assert torch.allclose(layer.up.grad, torch.ones(8, 4) @ (x @ layer.down.weight.t()), atol=1e-5)


def test_scales_that_are_no_powers_of_two_are_applied_in_float32() -> None:
    """As when a file is widened: one rounding, of the product."""
    torch.manual_seed(8)
    values, scale = torch.randn(8, 16).to(torch.float8_e4m3fn), torch.rand(8, 1)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(widened(values, scale, dtype), (values.float() * scale).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stored_kinds_give_what_a_wide_layer_of_their_values_gives(dtype: torch.dtype) -> None:
    """Bit for bit, the bias and the gradient included."""
    torch.manual_seed(9)
    layer = nn.Linear(128, 48).to(dtype)
    x, gradient = torch.randn(3, 128, dtype=dtype, requires_grad=True), torch.randn(3, 48, dtype=dtype)
    fp8, nf = Fp8Linear.of(layer), Nf4Linear.of(layer)
    wide = {fp8: widened(fp8.values, fp8.scale, dtype), nf: nf4.widened(nf.values, nf.scale, nf.table, dtype)}
    for small, weight in wide.items():
        layer.weight.data = weight
        for ours, theirs in zip(
            (small(x), *torch.autograd.grad(small(x), x, gradient)),
            (layer(x), *torch.autograd.grad(layer(x), x, gradient)),
            strict=True,
        ):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", LINEARS.values())
def test_the_weight_is_there_in_shape_alone(kind: type[QuantisedLinear]) -> None:
    small = kind.of(nn.Linear(64, 12))
    assert (small.weight.shape, small.weight.dtype) == ((12, 64), torch.int8)
    assert small.weight.untyped_storage().nbytes() == 1


def test_nf4_takes_half_a_byte_and_a_scale_for_every_64() -> None:
    small = Nf4Linear.of(nn.Linear(256, 32, bias=False))
    assert sum(buffer.nbytes for buffer in small.buffers()) == 32 * (128 + 2 * 4) + 256 * 2 * 4


@pytest.mark.parametrize(("kind", "bound"), [(Fp8Linear, 0.04), (Int8Linear, 0.015), (Nf4Linear, 0.11)])
@pytest.mark.parametrize("heavy", [False, True])
def test_errors_of_a_layer_stay_small(kind: type[QuantisedLinear], bound: float, heavy: bool) -> None:
    """Output and gradient against the unrounded layer; heavy tails as activations of transformers have them."""
    torch.manual_seed(3)
    layer = nn.Linear(512, 256)
    x, gradient = torch.randn(64, 512), torch.randn(64, 256)
    if heavy:
        x, gradient = x * torch.randn_like(x).exp(), gradient * torch.randn_like(gradient).exp()
        x[:, 7] *= 8  # a channel of outliers
        bound = max(bound, 0.05)  # a row's largest value takes steps away from the others
    x.requires_grad_()
    small = kind.of(layer)
    layer(x).backward(gradient)
    assert x.grad is not None
    wanted, x.grad = x.grad, None
    out = small(x)
    out.backward(gradient)
    error = (out - layer(x)).norm() / layer(x).norm()
    gradient_error = (x.grad - wanted).norm() / wanted.norm()
    assert float(error.detach()) < bound
    assert float(gradient_error) < bound


@pytest.mark.parametrize(("kind", "bound"), [(Fp8Linear, 0.04), (Int8Linear, 0.015), (Nf4Linear, 0.11)])
def test_channels_that_are_all_zero_take_nothing_from_the_others(
    kind: type[QuantisedLinear], bound: float
) -> None:
    """Pruned layers have such."""
    torch.manual_seed(4)
    layer = nn.Linear(256, 128)
    layer.weight.data[5] = 0
    x, gradient = torch.randn(3, 256), torch.randn(3, 128)
    x[1] = 0
    wide, narrow = (x.clone().requires_grad_() for _ in range(2))
    layer(wide).backward(gradient)
    kind.of(layer)(narrow).backward(gradient)
    assert wide.grad is not None
    assert narrow.grad is not None
    assert float((narrow.grad - wide.grad).norm() / wide.grad.norm()) < bound


@pytest.mark.parametrize("kind", LINEARS.values())
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(kind: type[QuantisedLinear], bad: float) -> None:
    """In a row of the input, of the gradient and of the weight; the checks of a run look for it."""
    layer = nn.Linear(64, 8)
    small = kind.of(layer)
    x = torch.randn(2, 64)
    x[0, 3] = bad
    x.requires_grad_()
    out = small(x)
    assert out.isfinite().all(dim=1).tolist() == [False, True]
    gradient = torch.ones(2, 8)
    gradient[1, 2] = bad
    out.backward(gradient)
    assert x.grad is not None
    assert not x.grad[1].isfinite().all()
    layer.weight.data[4, 0] = bad
    assert kind.of(layer)(torch.randn(2, 64)).isfinite().all(dim=0).tolist() == [n != 4 for n in range(8)]


@pytest.mark.parametrize("kind", LINEARS.values())
def test_no_rows_at_all(kind: type[QuantisedLinear]) -> None:
    x = torch.zeros(0, 3, 64, requires_grad=True)
    out = kind.of(nn.Linear(64, 8))(x)
    assert out.shape == (0, 3, 8)
    out.sum().backward()
    assert x.grad is not None


def test_int8_multiplies_rounded_rows_by_rounded_weights() -> None:
    """By hand: scales 2 and 1 of the rows, 1 and 0.5 of the channels."""
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[127.0, 0.4, -3.0], [63.5, 1.0, 0.0]])
    small = Int8Linear.of(layer)
    assert torch.equal(small.values, torch.tensor([[127, 0, -3], [127, 2, 0]], dtype=torch.int8))
    assert torch.equal(small.scale, torch.tensor([[1.0], [0.5]]))
    x = torch.tensor([[254.0, 2.0, -4.0], [127.0, 0.0, 10.2]], requires_grad=True)
    out = small(x)
    assert torch.equal(
        out, torch.tensor([[2 * (127 * 127 + 6.0), 127 * 127 + 2.0], [127 * 127 - 30.0, 127 * 63.5]])
    )
    out.backward(torch.tensor([[127.0, 2.0], [0.0, 254.0]]))  # times the channels' scales: [127, 1], [0, 127]
    expected = torch.tensor([[127.0 * 127 + 127, 2.0, -3 * 127.0], [127.0 * 127, 254.0, 0.0]])
    assert x.grad is not None
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("kind", LINEARS.values())
def test_rows_do_not_depend_on_each_other(kind: type[QuantisedLinear]) -> None:
    torch.manual_seed(4)
    small = kind.of(nn.Linear(16, 8))
    x = torch.randn(2, 3, 16) * torch.tensor([1e-3, 1.0, 1e3])[:, None]
    x[0, 0] = 0
    together = small(x)
    assert together.shape == (2, 3, 8)
    assert torch.allclose(together[1, 2], small(x[1, 2]), rtol=1e-4, atol=1e-5)
    assert bool(torch.isfinite(together).all())


@pytest.mark.parametrize("kind", LINEARS.values())
def test_bf16_stays_bf16_both_ways(kind: type[QuantisedLinear]) -> None:
    torch.manual_seed(5)
    small = kind.of(nn.Linear(32, 16).bfloat16())
    x = torch.randn(4, 32, dtype=torch.bfloat16, requires_grad=True)
    out = small(x)
    out.sum().backward()
    assert x.grad is not None
    assert out.dtype == x.grad.dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("kind", LINEARS)
def test_compiled_keeps_no_wide_weight(kind: str) -> None:
    """Two layers, as a compiler that sees both passes of a block at once could keep theirs."""
    torch.manual_seed(6)
    block = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)).requires_grad_(False)
    quantise_blocks([block], kind)  # type: ignore[arg-type]
    compile_blocks([block], 1)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = torch.randn(4, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = block(x)
    assert kept
    assert max(tensor.nbytes for tensor in kept) <= 64 * 256  # a byte each: narrow
    (found,) = torch.autograd.grad(out.square().sum(), x)
    (expected,) = torch.autograd.grad(block.__class__.forward(block, x).square().sum(), x)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LINEARS.values())
def test_compiled_is_the_same(kind: type[QuantisedLinear]) -> None:
    torch.manual_seed(6)
    small = kind.of(nn.Linear(32, 16))
    x = torch.randn(4, 32, requires_grad=True)
    wanted = small(x)
    (expected,) = torch.autograd.grad(wanted.square().sum(), x)
    out = torch.compile(small, fullgraph=True)(x)
    (found,) = torch.autograd.grad(out.square().sum(), x)
    assert torch.allclose(out, wanted, atol=1e-5)
    assert torch.allclose(found, expected, atol=1e-4)
