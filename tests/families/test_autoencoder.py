"""The autoencoder in pieces: what it gives whole, but for rounding."""

from __future__ import annotations

import copy
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from velatura.checkpoints.published import load_config
from velatura.errors import ModelError
from velatura.families import autoencoder
from velatura.families.autoencoder import decode_latents, encode_image, posterior
from velatura.families.locate import POCKET
from velatura.interfaces import Pieces
from velatura.placement.pieces import sliced, strips, tiled
from velatura.planning.devices import device_named
from velatura.planning.tracking import Tracker
from velatura.pocket.layout import sample_scene
from velatura.pocket.renderer import draw

from .models import seeded, vae

GIB = 2**30


@pytest.fixture(scope="module")
def pocket() -> Any:
    return AutoencoderKL.from_pretrained(POCKET / "flux" / "vae").eval().requires_grad_(False)


@pytest.mark.parametrize("flux_like", [True, False])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (104, 40), (50, 71), (16, 200)])
@pytest.mark.parametrize("held", [sliced.HELD, 0])
@torch.no_grad()
def test_strips_equal_the_whole(
    flux_like: bool, height: int, width: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "STRIP", 1)
    monkeypatch.setattr(sliced, "SCORES", 5000)
    monkeypatch.setattr(sliced, "HELD", held)
    module = vae(flux_like=flux_like)
    images = torch.rand(2, 3, height, width) * 2 - 1
    whole, pieces = posterior(module, images, "whole"), posterior(module, images, "sliced")
    assert whole.deviation is not None
    assert pieces.deviation is not None
    assert torch.allclose(pieces.mean, whole.mean, atol=1e-4)
    assert torch.allclose(pieces.deviation, whole.deviation, atol=1e-4)
    decoded = decode_latents(module, whole.mean, "whole")
    assert torch.allclose(decode_latents(module, whole.mean, "sliced"), decoded, atol=1e-4)


CELLS = st.integers(1, 40)  # of latents: of these small networks 2 pixels each


@settings(max_examples=25, deadline=None, derandomize=True)
@given(flux_like=st.booleans(), height=CELLS, width=CELLS, pixels=st.tuples(*[st.integers(0, 1)] * 2))
@example(flux_like=True, height=1, width=2, pixels=(0, 0))
@example(flux_like=False, height=1, width=40, pixels=(0, 1))
@example(flux_like=True, height=33, width=1, pixels=(1, 0))  # a value more than two tiles, and a sliver
@torch.no_grad()
def test_pieces_of_any_size(flux_like: bool, height: int, width: int, pixels: tuple[int, int]) -> None:
    """Odd sizes, less than a tile, slivers."""
    assume(
        height * width > 1
    )  # torch refuses to normalise a single value, and these have one channel a group
    module = vae(flux_like=flux_like)
    image = torch.rand(1, 3, 2 * height + pixels[0], 2 * width + pixels[1]) * 2 - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "STRIP", 1)
        patch.setattr(sliced, "HELD", 0)
        patch.setattr(sliced, "SCORES", 5000)
        patch.setattr(tiled, "TILE", 16)
        whole = encode_image(module, image, None, "whole")
        assert whole.shape[2:] == (height, width)
        for pieces in ("sliced", "tiled"):
            assert torch.allclose(encode_image(module, image, None, pieces), whole, atol=1e-4)
        decoded = decode_latents(module, whole, "whole")
        for pieces in ("sliced", "tiled"):
            assert torch.allclose(decode_latents(module, whole, pieces), decoded, atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "tile"),
    [
        (200, 256, 24),
        (96, 328, 7),
        pytest.param(8, 4800, 24, marks=pytest.mark.slow),
        pytest.param(4800, 8, 24, marks=pytest.mark.slow),
        pytest.param(712, 600, 128, marks=pytest.mark.slow),
    ],
)
def test_tiles_are_the_whole(
    pocket: Any, height: int, width: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled, "TILE", tile)
    image = F.interpolate(scene(512), size=(max(height, 512), max(width, 512)))[:, :, -height:, :width]
    latents = encode_image(pocket, image, None, "whole")
    assert torch.allclose(encode_image(pocket, image, None, "tiled"), latents, atol=1e-4)
    whole, tiles = (decode_latents(pocket, latents, pieces) for pieces in ("whole", "tiled"))
    assert float((tiles - whole).abs().max()) < 1e-4


@pytest.mark.parametrize("pattern", ["stripes", "facade", "mosaic", "spot", "soft"])
def test_tiles_of_any_picture_are_the_whole(
    pocket: Any, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of one that is not alike everywhere, whose parts have other statistics than the whole."""
    monkeypatch.setattr(tiled, "TILE", 24)
    latents = encode_image(pocket, picture(pattern, 256), None, "whole")
    whole, tiles = (decode_latents(pocket, latents, pieces) for pieces in ("whole", "tiled"))
    assert float((tiles - whole).abs().max()) < 1e-4


def test_tiles_in_bf16_are_as_near_as_strips(pocket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "TILE", 24)
    narrow = copy.deepcopy(pocket).to(torch.bfloat16)
    latents = encode_image(pocket, picture("soft", 128), None, "whole")
    exact = decode_latents(pocket, latents, "whole")
    off = {
        pieces: float((decode_latents(narrow, latents, pieces) - exact).abs().mean())
        for pieces in ("whole", "sliced", "tiled")
    }
    assert max(off.values()) < 1.2 * min(off.values())


@torch.no_grad()
def test_what_fits_in_one_tile_is_the_whole(pocket: Any) -> None:
    latents = torch.randn(2, 16, 12, 9)
    assert torch.allclose(
        decode_latents(pocket, latents, "tiled"), decode_latents(pocket, latents, "whole"), atol=1e-4
    )


def test_auto_is_whole_up_to_its_limit_and_sliced_above(monkeypatch: pytest.MonkeyPatch) -> None:
    module = vae(flux_like=True)
    runs: list[str] = []
    for name in ("_encode", "encode_sliced"):
        run = getattr(autoencoder, name)
        monkeypatch.setattr(
            autoencoder, name, lambda m, x, run=run, name=name: runs.append(f"{name} {len(x)}") or run(m, x)
        )
    monkeypatch.setattr(autoencoder, "WHOLE", 32 * 32)
    for batch, edge in ((1, 32), (2, 32), (4, 16), (2, 48)):
        posterior(module, torch.zeros(batch, 3, edge, edge))
    assert runs == ["_encode 1", "_encode 1", "_encode 1", "_encode 4", "encode_sliced 1", "encode_sliced 1"]


def test_what_is_trained_is_run_whole() -> None:
    module = vae(flux_like=True).requires_grad_(True)
    latents = torch.randn(1, 4, 8, 8)
    decode_latents(module, latents, "sliced").sum().backward()
    assert module.decoder.conv_in.weight.grad is not None


def test_an_autoencoder_of_other_layers_is_refused() -> None:
    config = {**load_config("sd15-vae"), "block_out_channels": [32, 32], "layers_per_block": 1}
    config |= {"down_block_types": ["AttnDownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    module = seeded(lambda: AutoencoderKL(**config), 0)
    image = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ModelError, match="cannot be run sliced"):
        posterior(module, image, "sliced")
    assert posterior(module, image).mean.shape == (1, 4, 8, 8)


@pytest.mark.slow
@pytest.mark.parametrize(("pieces", "most"), [("sliced", 3.4), ("tiled", 1.7)])
def test_memory_of_a_large_picture_with_the_true_autoencoder(pieces: Pieces, most: float) -> None:
    """FLUX's, 2048 x 2048 in float32, followed without values; the guide names these figures."""
    with torch.device("meta"):
        module = AutoencoderKL(**load_config("flux-vae")).eval().requires_grad_(False)
        latents = torch.empty(1, 16, 256, 256)
    tracker = Tracker(device_named("cpu"))
    weights = list(module.parameters())
    with tracker:
        tracker.know(weights, "autoencoder")
        assert decode_latents(module, latents, pieces).shape == (1, 3, 2048, 2048)
    held = sum(weight.nbytes for weight in weights)
    assert max(segment.peak.total for segment in tracker.segments) - held < most * GIB


def test_names_of_pieces() -> None:
    from velatura.recipe.training.loop import Memory

    assert Memory.model_fields["autoencoder"].annotation == Pieces
    assert get_args(Pieces)[0] == Memory().autoencoder


def scene(edge: int) -> Tensor:
    pixels = draw(sample_scene(np.random.default_rng(3)), edge).astype(np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]


def picture(pattern: str, edge: int) -> Tensor:
    """Columns or windows 16 pixels apart, scenes side by side, a light spot in the dark, large spots of colour."""
    if pattern == "mosaic":
        return scene(edge // 4).repeat(1, 1, 4, 4)
    if pattern == "spot":
        dark = torch.full((1, 3, edge, edge), -0.8)
        dark[:, :, edge // 3 : edge // 3 + 24, edge // 3 : edge // 3 + 24] = 1
        return dark
    if pattern == "soft":
        noise = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(5))
        return F.interpolate(noise, size=(edge, edge), mode="bicubic").clamp(-1, 1)
    light = (torch.arange(edge) % 16 < 8).float()
    rows = light if pattern == "facade" else torch.ones(edge)
    return (rows[:, None] * light * 1.6 - 0.8).expand(1, 3, edge, edge).contiguous()
