"""Painting with loaded parts: what is computed once for a whole schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from velatura.adapters.attach import put_on_fresh
from velatura.adapters.lora import Down, LoraLinear
from velatura.families.flux_blocks import modulations
from velatura.sampling import painter
from velatura.sampling.painter import encode_request, filled, paint
from velatura.sampling.request import Request

from ..tiny import load

CPU = torch.device("cpu")


@pytest.mark.parametrize(("steps", "cfg", "runs"), [(1, 1.0, 1), (4, 3.0, 1), (5, 1.0, 2)])
def test_modulation_is_computed_once_for_many_steps(
    tiny_model: Path, steps: int, cfg: float, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those layers are a quarter of FLUX's weights, and know all that they read before the first step."""
    monkeypatch.setattr(painter, "TOGETHER", 4)
    family, parts = load(tiny_model)
    assert parts.denoiser is not None
    counts: dict[str, int] = {}
    for block in family.blocks(parts.denoiser):
        for layer in modulations(block):
            name = f"{id(layer)}"
            counts[name] = 0
            layer.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts[name] + 1))
    request = filled(Request(prompt="a cube", width=32, height=32, steps=steps, cfg=cfg, batch=3), parts.info)
    paint(family, parts, request, encode_request(family, parts, request), device=CPU)
    assert set(counts.values()) == {runs}


def test_a_picture_that_was_interrupted_leaves_nothing_in_the_lora(tiny_model: Path) -> None:
    """Between two readers of one projection, which would count on from there and hold an input for good."""
    family, parts = load(tiny_model)
    assert parts.denoiser is not None
    targets = family.targets(parts.denoiser)
    put_on_fresh(parts.denoiser, targets, rank=2, alpha=2.0, seed=0)
    downs = [module for module in parts.denoiser.modules() if isinstance(module, Down)]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    layers = [module for module in parts.denoiser.modules() if isinstance(module, LoraLinear)]
    next(layer for layer in layers if layer.down.readers > 1).register_forward_hook(interrupt)
    request = filled(Request(prompt="a cube", width=32, height=32, steps=1), parts.info)
    conditioning = encode_request(family, parts, request)
    with pytest.raises(KeyboardInterrupt):
        paint(family, parts, request, conditioning, device=CPU)
    assert all((down._kept, down._reads) == (None, 0) for down in downs)


@torch.no_grad()
def test_what_is_known_ahead_changes_no_prediction(tiny_model: Path) -> None:
    family, parts = load(tiny_model)
    request = filled(Request(prompt="a cube", negative="red", cfg=2.0), parts.info)
    conditioning = encode_request(family, parts, request)
    times = torch.tensor([1.0, 0.6, 0.2])
    latents = torch.randn(2, parts.info.latent_channels, 4, 6)
    known = family.along(parts, conditioning, times, guidance=3.0)
    found = []
    for t, steered in zip(times, known, strict=True):
        at = t.expand(2)
        found.append(family.predict(parts, latents, at, steered, guidance=3.0))
        wanted = family.predict(parts, latents, at, conditioning, guidance=3.0)
        torch.testing.assert_close(found[-1], wanted, atol=1e-5, rtol=1e-4)
    assert (found[0] - found[1]).abs().max() > 1e-4  # each time its own
