"""The LoRA layer against its formula, written out with plain matrices."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

from velatura.adapters.lora import Down, LoraLinear, forget_inputs, fresh_down

B, L, IN, OUT, R = 3, 5, 12, 8, 4


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def layer(alpha: float = 6.0, out: int = OUT, *, bias: bool = True, down: Down | None = None) -> LoraLinear:
    base = nn.Linear(IN, out, bias=bias).requires_grad_(False)
    return LoraLinear(base, down or Down(torch.randn(R, IN)), torch.randn(out, R), alpha=alpha)


def update(x: Tensor, lora: LoraLinear) -> Tensor:
    """(alpha / r) B A x, in float64, row by row."""
    a, b = lora.down.weight.double(), lora.up.double()
    return torch.einsum("or,ri,...i->...o", b, a, x.double()) * lora.alpha / R


@pytest.mark.parametrize("shape", [(B, IN), (B, L, IN), (B, 2, L, IN)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("strength", [1.0, 0.3, -2.0, 0.0])
def test_output_is_base_plus_update(shape: tuple[int, ...], bias: bool, strength: float) -> None:
    lora, x = layer(bias=bias), torch.randn(shape)
    lora.strength = strength
    expected = lora.base(x).double() + strength * update(x, lora)
    torch.testing.assert_close(lora(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_strength_per_item() -> None:
    lora = layer()
    strength = torch.tensor([0.0, 1.0, -0.5])
    lora.strength = strength
    for x in (torch.randn(B, IN), torch.randn(B, L, IN)):
        expected = torch.stack([lora.base(x[i]) + strength[i] * update(x[i], lora).float() for i in range(B)])
        torch.testing.assert_close(lora(x), expected, rtol=1e-5, atol=1e-5)


def test_strength_per_token() -> None:
    lora, x, strength = layer(), torch.randn(B, L, IN), torch.rand(B, L)
    lora.strength = strength
    out = lora(x)
    for i in range(B):
        for j in range(L):
            expected = lora.base(x[i, j]) + strength[i, j] * update(x[i, j], lora).float()
            torch.testing.assert_close(out[i, j], expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_formula() -> None:
    lora, x = layer(), torch.randn(B, L, IN, requires_grad=True)
    strength = torch.rand(B)
    lora.strength = strength
    pull = torch.randn(B, L, OUT)
    (lora(x) * pull).sum().backward()
    scaled = pull * strength[:, None, None] * lora.alpha / R  # d loss / d (B A x)
    up = torch.einsum("blo,blr->or", scaled, x @ lora.down.weight.t())
    down = torch.einsum("blo,or,bli->ri", scaled, lora.up, x)
    base: Tensor = lora.base.weight  # type: ignore[assignment]
    inputs = pull @ base + torch.einsum("blo,or,ri->bli", scaled, lora.up, lora.down.weight)
    assert lora.up.grad is not None
    for found, expected in ((lora.up.grad, up), (lora.down.weight.grad, down), (x.grad, inputs)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert base.grad is None


def test_readers_of_one_input_share_the_projection_and_sum_its_gradients() -> None:
    """Three layers over one A: same outputs and gradients as three layers with A each, whose gradients are added."""
    x, pull = torch.randn(B, L, IN), torch.randn(3, B, L, OUT)
    down = Down(torch.randn(R, IN), readers=3)
    shared = [layer(down=down) for _ in range(3)]
    apart = [
        LoraLinear(s.base, Down(down.weight.detach().clone()), s.up.detach().clone(), alpha=6.0)
        for s in shared
    ]
    for group in (shared, apart):
        sum((lora(x) * pull[i]).sum() for i, lora in enumerate(group)).backward()  # type: ignore[union-attr]
    for one, other in zip(shared, apart, strict=True):
        torch.testing.assert_close(one(x), other(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.up.grad, other.up.grad, rtol=1e-5, atol=1e-5)
    total = sum(lora.down.weight.grad for lora in apart)  # type: ignore[misc]
    torch.testing.assert_close(down.weight.grad, total, rtol=1e-5, atol=1e-5)


def test_a_shared_projection_is_computed_once_per_input_and_never_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    linear = torch.nn.functional.linear

    def counted(*arguments: Tensor | None) -> Tensor:
        calls.append(1)
        return linear(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("torch.nn.functional.linear", counted)
    down = Down(torch.randn(R, IN), readers=2)
    one, two = layer(down=down), layer(down=down)
    x, y = torch.randn(B, IN), torch.randn(B, IN)
    calls.clear()
    assert torch.equal(down(x), down(x))
    assert len(calls) == 1
    assert not torch.equal(down(x), down(y))  # another input before all readers read the first
    hidden = down(x)
    with torch.no_grad():
        down.weight.add_(1.0)
        assert not torch.equal(down(x), hidden)  # the weights moved in between
        torch.testing.assert_close(one(x), one.base(x) + update(x, one).float())
        torch.testing.assert_close(two(x), two.base(x) + update(x, two).float())


def test_nothing_is_held_once_all_have_read() -> None:
    down = Down(torch.randn(R, IN), readers=2)
    x = torch.randn(B, IN)
    down(x), down(x)
    assert down._kept is None


def test_readers_may_read_different_rows() -> None:
    """The last block of FLUX has two readers of all tokens and two of the image's; a pass may break off between them."""
    down = Down(torch.randn(R, IN), readers=4)
    x = torch.randn(B, IN)
    for reads in ([x, x, x[1:]], [x, x, y := x[1:], y]):
        for given in reads:
            torch.testing.assert_close(down(given), given @ down.weight.t())
        with torch.no_grad():
            down.weight.add_(1.0)  # the next step
    assert down._kept is None


def test_no_gradient_mode_is_not_mixed_up_with_gradient_mode() -> None:
    down = Down(torch.randn(R, IN), readers=2)
    x = torch.randn(B, IN)
    with torch.no_grad():
        down(x)
    assert down(x).requires_grad


def test_low_precision_bases_get_their_own_dtype_back() -> None:
    base = nn.Linear(IN, OUT).half().requires_grad_(False)
    lora = LoraLinear(base, Down(torch.randn(R, IN)), torch.randn(OUT, R), alpha=4.0)
    x = torch.randn(2, IN, dtype=torch.float16)
    out = lora(x)
    assert out.dtype == torch.float16
    out.sum().backward()
    assert lora.up.grad is not None
    assert lora.up.grad.dtype == torch.float32
    expected = base(x).double() + update(x, lora)
    torch.testing.assert_close(out.double(), expected, rtol=5e-3, atol=3e-2)


def test_delta_is_the_weight_of_the_update() -> None:
    lora, x = layer(), torch.randn(7, IN)
    torch.testing.assert_close(x @ lora.delta().t(), update(x, lora).float(), rtol=1e-5, atol=1e-5)


def test_fresh_down_is_kaiming_uniform_as_in_nn_linear() -> None:
    """kaiming_uniform_ with a = sqrt(5): uniform in +-1 / sqrt(in), variance 1 / (3 in)."""
    values = fresh_down(64, 300, torch.Generator().manual_seed(1))
    assert float(values.abs().max()) <= 300**-0.5
    assert float(values.abs().max()) > 0.999 * 300**-0.5
    assert abs(float(values.var()) * 900 - 1) < 0.03
    again = fresh_down(64, 300, torch.Generator().manual_seed(1))
    assert torch.equal(values, again)


def test_a_pass_that_broke_off_is_forgotten() -> None:
    """One of two readers had read: what was made of the input would be held by it, with all before it."""
    down = Down(torch.randn(R, IN), readers=2)
    one, other = layer(down=down), layer(down=down)
    x = torch.randn(B, IN, requires_grad=True)
    early = x * 2
    gone = weakref.ref(early)
    one(early)
    del early
    assert gone() is not None
    forget_inputs([nn.ModuleList([one, other])])
    assert gone() is None
    y = torch.randn(B, IN)
    torch.testing.assert_close(one(y), layer_alone(one)(y))
    torch.testing.assert_close(other(y), layer_alone(other)(y))
    assert down._kept is None  # as after two readers


def layer_alone(shared: LoraLinear) -> LoraLinear:
    """The same with a projection of its own."""
    return LoraLinear(shared.base, Down(shared.down.weight.detach()), shared.up.detach(), alpha=shared.alpha)
