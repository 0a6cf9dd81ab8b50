"""LoRA layers on convolutions, as files of Stable Diffusion 1 have them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from velatura.adapters.attach import LoraValues, put_on
from velatura.adapters.lora import LoraConv
from velatura.errors import CheckpointError
from velatura.interfaces import Target

CONVOLUTIONS = [
    nn.Conv2d(6, 4, 1),
    nn.Conv2d(6, 4, 3, padding=1),
    nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(6, 4, 3, dilation=2),
]


def values(conv: nn.Conv2d, rank: int = 3, seed: int = 0) -> LoraValues:
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *conv.weight.shape[1:], generator=generator)
    return LoraValues(down=down, up=torch.randn(4, rank, 1, 1, generator=generator), alpha=1.5)


@torch.no_grad()
@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_the_output_is_that_of_the_changed_kernel(conv: nn.Conv2d) -> None:
    """Two stacked, at strengths of their own; then merged; then off again."""
    host, x = nn.Sequential(conv), torch.randn(2, 6, 9, 7)
    plain = host(x)
    one, two = values(conv), values(conv, rank=2, seed=1)
    first, second = put_on(host, {"0": one}), put_on(host, {"0": two})
    second.set_strength(-0.5)
    deltas = [
        torch.einsum("or,rihw->oihw", v.up[:, :, 0, 0], v.down) * v.alpha / v.down.shape[0]
        for v in (one, two)
    ]
    steps = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    kernel = conv.weight + deltas[0] - 0.5 * deltas[1]
    expected = torch.nn.functional.conv2d(x, kernel, conv.bias, **steps)  # type: ignore[arg-type]
    torch.testing.assert_close(host(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first.layers["0"].delta(), deltas[0])
    second.take_off()
    before = conv.weight.clone()
    first.merge(2.0)
    torch.testing.assert_close(conv.weight, before + 2 * deltas[0])
    conv.weight.copy_(before)
    assert torch.equal(host(x), plain)


@torch.no_grad()
def test_strength_per_item() -> None:
    host, x = nn.Sequential(nn.Conv2d(6, 4, 3)), torch.randn(2, 6, 5, 5)
    plain = host(x)
    adapter = put_on(host, {"0": values(host[0])})  # type: ignore[arg-type]
    full = host(x)
    adapter.set_strength(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(host(x), torch.stack([plain[0], full[1]]))


@torch.no_grad()
def test_flat_values_fit_a_1x1_convolution_and_the_other_way_round() -> None:
    """Tools disagree on what these layers are; the values are the same."""
    flat = LoraValues(down=torch.randn(2, 6), up=torch.randn(4, 2), alpha=2.0)
    deep = LoraValues(down=flat.down[:, :, None, None], up=flat.up[:, :, None, None], alpha=2.0)
    for host, found in ((nn.Sequential(nn.Conv2d(6, 4, 1)), flat), (nn.Sequential(nn.Linear(6, 4)), deep)):
        adapter = put_on(host, {"0": found})
        assert torch.equal(adapter.layers["0"].delta().flatten(1), flat.up @ flat.down)
        assert isinstance(adapter.layers["0"], LoraConv) == isinstance(adapter.layers["0"].base, nn.Conv2d)


def test_kernels_of_another_size_and_grouped_convolutions_are_refused() -> None:
    with pytest.raises(CheckpointError, match="maps 6x3x3 -> 4 features, the model's layer 6x1x1 -> 4"):
        put_on(nn.Sequential(nn.Conv2d(6, 4, 1)), {"0": values(nn.Conv2d(6, 4, 3))})
    with pytest.raises(CheckpointError, match="plain convolutions"):
        put_on(nn.Sequential(nn.Conv2d(6, 4, 1, groups=2)), {"0": values(nn.Conv2d(6, 4, 1))})


def test_fresh_layers_are_for_linear_layers() -> None:
    from velatura.adapters.attach import put_on_fresh

    with pytest.raises(CheckpointError, match="new LoRA layers sit on linear layers only"):
        put_on_fresh(
            nn.Sequential(nn.Conv2d(6, 4, 1)), [Target(module="0", group="x")], rank=2, alpha=2, seed=0
        )
