"""The KL autoencoder: what it is, encoding and decoding."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor, nn

from velatura.checkpoints.vae_keys import autoencoder, vae_config
from velatura.draws import Draw
from velatura.families.network import DiffusersNetwork
from velatura.interfaces import Posterior


def kl_autoencoder(published: str) -> DiffusersNetwork:
    """`AutoencoderKL`. `published`: the config with the scale of its latents, which a single file cannot say."""
    return DiffusersNetwork(
        what="autoencoder",
        kind="autoencoder",
        model=AutoencoderKL,
        find=autoencoder,
        shapes=vae_config,
        published=published,
        start=_close_branches,
    )


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


def _close_branches(module: AutoencoderKL) -> None:
    """Start with closed residual branches: the network begins as its linear shortcuts and learns faster from there."""
    for name, layer in module.named_modules():
        if name.endswith(".conv2") and isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
