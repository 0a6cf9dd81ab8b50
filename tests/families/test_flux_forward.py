"""Our forward pass against diffusers' own, with diffusers' own attention."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor, nn

from velatura.families.flux_blocks import _normed, gelu, rotated, use_our_blocks
from velatura.families.flux_forward import FluxInputs, _rotary, flux_forward

from .models import flux

ROWS, COLUMNS, TEXT = 3, 5, 7


def inputs(*, guidance: bool) -> FluxInputs:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    return FluxInputs(
        tokens=normal(2, ROWS * COLUMNS, 16),
        text=normal(2, TEXT, 24),
        pooled=normal(2, 64),
        t=torch.tensor([0.137, 0.9]),
        guidance=torch.tensor([3.5, 1.0]) if guidance else None,
        grid=(ROWS, COLUMNS),
    )


def gradients(out: Tensor, given: FluxInputs) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    return torch.autograd.grad((out * weights).sum(), (given.tokens, given.text, given.pooled))


@pytest.mark.parametrize("guidance", [True, False])
def test_forward_and_gradients_equal_diffusers(guidance: bool) -> None:
    model, given = flux(guidance=guidance), inputs(guidance=guidance)
    theirs = model(
        hidden_states=given.tokens,
        encoder_hidden_states=given.text,
        pooled_projections=given.pooled,
        timestep=given.t,
        guidance=given.guidance,
        img_ids=FluxPipeline._prepare_latent_image_ids(1, ROWS, COLUMNS, torch.device("cpu"), torch.float32),
        txt_ids=torch.zeros(TEXT, 3),
        return_dict=False,
    )[0]
    expected = gradients(theirs, given)
    use_our_blocks(model)
    ours = flux_forward(model, given)
    assert ours.abs().mean() > 0.05
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    for ours_by, theirs_by in zip(gradients(ours, given), expected, strict=True):
        assert theirs_by.abs().max() > 1e-3
        torch.testing.assert_close(ours_by, theirs_by, atol=1e-4, rtol=1e-4)


def test_the_last_block_makes_nothing_of_the_text() -> None:
    """It looks at all tokens and makes the image's: the rows that its layers are given, in a pass."""
    model, given = flux(guidance=False), inputs(guidance=False)
    use_our_blocks(model)
    last, rows = model.single_transformer_blocks[-1], {}
    for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out"):
        last.get_submodule(name).register_forward_hook(
            lambda module, read, out, name=name: rows.update({name: out.shape[1]})
        )
    flux_forward(model, given)
    image, all_ = ROWS * COLUMNS, ROWS * COLUMNS + TEXT
    assert rows == {
        "attn.to_q": image,
        "attn.to_k": all_,
        "attn.to_v": all_,
        "proj_mlp": image,
        "proj_out": image,
    }


def test_guidance_and_time_are_read() -> None:
    model, given = flux(guidance=True), inputs(guidance=True)
    use_our_blocks(model)
    base = flux_forward(model, given)
    for change in ({"guidance": torch.tensor([3.5, 1.3])}, {"t": torch.tensor([0.137, 0.91])}):
        other = flux_forward(model, FluxInputs(**{**vars(given), **change}))
        assert torch.equal(other[0], base[0])
        assert (other[1] - base[1]).abs().max() > 1e-4


def test_rotary_angles_by_hand() -> None:
    """Axes (4, 2, 2): position p of the first axis turns by p and p / 100, of the others by p; text stands at 0."""
    cos, sin = _rotary((4, 2, 2), 1, (4, 2), torch.device("cpu"))
    assert cos.shape == (1 + 8, 4)
    assert torch.equal(cos[0], torch.ones(4))
    row, column = 3, 1
    angles = torch.tensor([0.0, 0, row, column])  # image tokens have 0 on the first axis
    torch.testing.assert_close(sin[1 + row * 2 + column], angles.sin())
    four = _rotary((2, 4, 2), 0, (4, 2), torch.device("cpu"))[0]
    torch.testing.assert_close(four[row * 2][1:3], torch.tensor([3.0, 0.03]).cos())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotations_are_the_same_compiled_and_not(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, 3, 8, generator=generator).to(dtype)
    angles = torch.randn(5, 4, generator=generator)
    rotary = (angles.cos(), angles.sin())
    eager = rotated(x, rotary)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotated(x, rotary), eager)
    quarter = torch.full((5, 4), torch.pi / 2)
    turned = rotated(x, (quarter.cos(), quarter.sin()))
    torch.testing.assert_close(turned[..., 0::2], -x[..., 1::2])
    torch.testing.assert_close(turned[..., 1::2], x[..., 0::2])


def test_gelu_is_the_same_compiled_and_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the rounding of float32 of its size, far out too, and so are its slopes."""
    x = torch.cat((torch.linspace(-12, 12, 4001), torch.tensor([-1e4, 1e4]))).requires_grad_()
    eager = gelu(x)
    slopes = torch.autograd.grad(eager.sum(), x)[0]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    compiled = gelu(x)
    torch.testing.assert_close(compiled, eager, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(compiled.sum(), x)[0], slopes, rtol=1e-6, atol=3e-6)
    assert gelu(x.bfloat16()).dtype == torch.bfloat16


def test_norms_of_wide_weights_are_fused(recwarn: pytest.WarningsRecorder) -> None:
    """In the dtype of what they are given, as autocast's linear layers are; their gradients stay wide."""
    norm = nn.RMSNorm(8, eps=1e-6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    x = torch.randn(2, 3, 4, 8, dtype=torch.bfloat16)
    torch.set_warn_always(True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            out = _normed(norm, x)
    finally:
        torch.set_warn_always(False)
    assert out.dtype == torch.bfloat16
    assert not [one for one in recwarn if "Mismatch dtype" in str(one.message)]
    torch.testing.assert_close(out.float(), norm(x.float()), rtol=0.02, atol=0.02)
    out.sum().backward()
    assert norm.weight.grad is not None
    assert norm.weight.grad.dtype == torch.float32
