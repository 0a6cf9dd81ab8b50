"""Attention by name in the families: every layer obeys, and what cannot be had is told once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import Log
from torch import Tensor

from velatura.events import Events
from velatura.families import attending
from velatura.families.attending import attend_by, attention_for
from velatura.families.flux import FluxFamily
from velatura.families.flux_blocks import use_our_blocks
from velatura.families.flux_forward import flux_forward
from velatura.families.sd1 import Sd1Family
from velatura.families.unet import use_our_attention
from velatura.interfaces import ModelFiles
from velatura.placement.attention import Attention

from .models import flux, unet
from .test_flux_forward import inputs

CPU = torch.device("cpu")


def painted(model: Any) -> Tensor:
    """What a UNet gives for two items."""
    generator = torch.Generator().manual_seed(3)
    latents, text = (
        torch.randn(shape, generator=generator, requires_grad=True) for shape in ((2, 4, 12, 12), (2, 9, 64))
    )
    found: Tensor = model(latents, torch.tensor([3, 700]), text, return_dict=False)[0]
    return torch.cat(
        [found.flatten(), *(g.flatten() for g in torch.autograd.grad(found.square().sum(), (latents, text)))]
    )


def test_a_unet_gives_what_diffusers_gives() -> None:
    model = unet()
    theirs = painted(model)
    use_our_attention(model)
    torch.testing.assert_close(painted(model), theirs, atol=1e-5, rtol=1e-5)


class Counted(Attention):
    """SDPA that counts its calls."""

    calls = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        type(self).calls += 1
        return super().__call__(query, key, value)


def test_every_layer_of_both_families_obeys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "calls", 0)
    denoiser = flux(guidance=True)
    use_our_blocks(denoiser)
    attend_by(FluxFamily(), denoiser, Counted())
    flux_forward(denoiser, inputs(guidance=True))
    assert Counted.calls == 2 + 2  # double and single blocks
    model = unet()
    use_our_attention(model)
    attend_by(Sd1Family(), model, Counted())
    painted(model)
    assert Counted.calls == 4 + 2 * 4  # a transformer block down, one in the middle, two up: two layers each


def test_one_item_at_a_time_gives_the_same() -> None:
    denoiser, given = flux(guidance=True), inputs(guidance=True)
    use_our_blocks(denoiser)
    together = flux_forward(denoiser, given)
    attend_by(FluxFamily(), denoiser, Attention(split=True))
    torch.testing.assert_close(flux_forward(denoiser, given), together, atol=1e-6, rtol=1e-5)
    model = unet()
    use_our_attention(model)
    together = painted(model)
    attend_by(Sd1Family(), model, Attention(split=True))
    torch.testing.assert_close(painted(model), together, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_had_is_told_once(flux_folder: Path) -> None:
    log = Log()
    files = ModelFiles(model=str(flux_folder))
    found = attention_for(
        FluxFamily(), files, "xformers", split=True, device=CPU, dtype=torch.float32, events=log.events
    )
    assert found == Attention(name="sdpa", split=True)
    (line,) = log.texts.splitlines()
    assert line.startswith('attention "xformers" cannot be had: it ')
    assert line.endswith('; "sdpa" is used instead')


def test_the_models_heads_decide(
    flux_folder: Path, sd1_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []

    def why_not(name: str, *, heads: set[int], **given: Any) -> None:
        seen.append(heads)

    monkeypatch.setattr(attending, "why_not", why_not)
    for family, folder in ((FluxFamily(), flux_folder), (Sd1Family(), sd1_folder)):
        files = ModelFiles(model=str(folder))
        found = attention_for(family, files, "flash", device=CPU, dtype=torch.float32, events=Events())
        assert found == Attention(name="flash")
    assert seen == [{16}, {32 // 8, 64 // 8}]
