"""The KL autoencoder: what it is, encoding and decoding."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor, nn

from velatura.checkpoints.vae_keys import autoencoder, vae_config
from velatura.draws import Draw
from velatura.families.network import DiffusersNetwork


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


def encode_image(module: Any, images: Tensor, draw: Draw | None) -> Tensor:
    """`[B, 3, H, W]` in [-1, 1] -> (value - shift) * scale of the posterior's mean, or of a sample by `draw`."""
    posterior = module.encode(images.to(module.dtype)).latent_dist
    latents = posterior.mean.float()
    if draw is not None:
        noise = draw.normal("posterior", latents.shape[1:]).to(latents.device)
        latents = latents + posterior.std.float() * noise
    scaled: Tensor = (latents - (module.config.shift_factor or 0.0)) * module.config.scaling_factor
    return scaled


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
