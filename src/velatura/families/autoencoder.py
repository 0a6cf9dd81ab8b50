"""The KL autoencoder: inspecting and loading it from any source, encoding and decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from velatura.checkpoints.loading import load_into, skeleton
from velatura.checkpoints.published import load_config
from velatura.checkpoints.vae_keys import autoencoder, vae_config
from velatura.draws import Draw
from velatura.families.configs import config_fields, part_config
from velatura.families.locate import part_path, weights_identity
from velatura.families.parts import open_part
from velatura.families.scratch import from_scratch
from velatura.interfaces import ModelFiles, Posterior

WHAT = "autoencoder"


@dataclass(frozen=True, kw_only=True)
class AutoencoderFacts:
    """What the config says."""

    scale: int  # pixels per latent pixel
    channels: int  # of the latents
    fingerprint: str


def inspect_autoencoder(files: ModelFiles, published: str) -> AutoencoderFacts:
    """Read the config (or the shapes of a single file); no weights."""
    path = _path(files)
    config = _config(path, published)
    mark = "" if "autoencoder" in files.from_scratch else weights_identity([path])
    return AutoencoderFacts(
        scale=2 ** (len(config["block_out_channels"]) - 1),
        channels=int(config["latent_channels"]),
        fingerprint=f"{mark}/{config['scaling_factor']}/{config.get('shift_factor')}" if mark else "",
    )


def load_autoencoder(
    files: ModelFiles, published: str, *, device: torch.device, dtype: torch.dtype, seed: int
) -> AutoencoderKL:
    """A frozen `AutoencoderKL` in eval mode. `published`: the config that fills in what a single file cannot say."""
    path = _path(files)
    config = config_fields(AutoencoderKL, _config(path, published))
    if "autoencoder" in files.from_scratch:
        return from_scratch(lambda: _closed(AutoencoderKL(**config)), seed, WHAT, device)
    module = skeleton(lambda: AutoencoderKL(**config))
    checkpoint = open_part(path, "autoencoder")
    inner, key_map = autoencoder(checkpoint)
    load_into(module, inner, key_map, dtype=dtype, device=device, what=WHAT)
    return module.requires_grad_(False).eval()


def posterior(module: Any, images: Tensor) -> Posterior:
    """`[B, 3, H, W]` in [-1, 1] -> mean (value - shift) * scale and deviation * scale, float32."""
    found = module.encode(images.to(module.dtype)).latent_dist
    shift, scale = module.config.shift_factor or 0.0, module.config.scaling_factor
    return Posterior(mean=(found.mean.float() - shift) * scale, deviation=found.std.float() * scale)


def encode_image(module: Any, images: Tensor, draw: Draw | None) -> Tensor:
    """`[B, 3, H, W]` in [-1, 1] -> the posterior's mean, or a sample of it by `draw`."""
    found = posterior(module, images)
    return found.mean if draw is None else found.sample(draw)


def decode_latents(module: Any, latents: Tensor) -> Tensor:
    """Scaled latents -> `[B, 3, H, W]` float32, about [-1, 1]."""
    raw = latents / module.config.scaling_factor + (module.config.shift_factor or 0.0)
    decoded: Tensor = module.decode(raw.to(module.dtype)).sample
    return decoded.float()


def _path(files: ModelFiles) -> Path:
    return part_path(files, files.autoencoder, "vae", WHAT)


def _config(path: Path, published: str) -> dict[str, Any]:
    if path.is_dir():
        return part_config(AutoencoderKL, path, WHAT)
    checkpoint = open_part(path, "autoencoder")
    return {**load_config(published), **vae_config(checkpoint)}


def _closed(module: AutoencoderKL) -> AutoencoderKL:
    """Start with closed residual branches: the network begins as its linear shortcuts and learns faster from there."""
    for name, layer in module.named_modules():
        if name.endswith(".conv2") and isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    return module
