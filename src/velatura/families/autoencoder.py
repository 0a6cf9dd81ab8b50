"""The KL autoencoder: what it is, encoding and decoding, whole or in pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from velatura.checkpoints.vae_keys import autoencoder, vae_config
from velatura.draws import Draw
from velatura.errors import ModelError
from velatura.families.network import DiffusersNetwork
from velatura.interfaces import Pieces, Posterior
from velatura.placement.pieces.sliced import can_be_sliced, decode_sliced, encode_sliced
from velatura.placement.pieces.tiled import decode_tiled

WHOLE = 1280 * 1280  # pixels that "auto" runs at once


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


def posterior(module: Any, images: Tensor, pieces: Pieces = "auto") -> Posterior:
    """`[B, 3, H, W]` in [-1, 1] -> mean (value - shift) * scale and deviation * scale, float32.

    In tiles it is encoded in strips: they are exact, and what an encoder holds is small. Raises ModelError.
    """
    images = images.to(module.dtype)
    way = _way(module, images, pieces, pixels=images[0, 0].numel())
    run = encode_sliced if way in ("sliced", "tiled") else _encode
    found = DiagonalGaussianDistribution(_items(run, module, images, at_once=way == "whole"))
    shift, scale = module.config.shift_factor or 0.0, module.config.scaling_factor
    return Posterior(mean=(found.mean.float() - shift) * scale, deviation=found.std.float() * scale)


def encodes_alone(module: Any, images: Tensor, pieces: Pieces) -> bool:
    """Whether `posterior` takes one of the images `[B, 3, H, W]` after the other. Raises ModelError."""
    return len(images) > 1 and _way(module, images, pieces, pixels=images[0, 0].numel()) != "whole"


def encode_image(module: Any, images: Tensor, draw: Draw | None, pieces: Pieces = "auto") -> Tensor:
    """`[B, 3, H, W]` in [-1, 1] -> the posterior's mean, or a sample of it by `draw`."""
    found = posterior(module, images, pieces)
    return found.mean if draw is None else found.sample(draw)


def decode_latents(module: Any, latents: Tensor, pieces: Pieces = "auto") -> Tensor:
    """Scaled latents -> `[B, 3, H, W]` float32, about [-1, 1]. Raises ModelError."""
    raw = latents / module.config.scaling_factor + (module.config.shift_factor or 0.0)
    raw = raw.to(module.dtype)
    edges = 2 ** (len(module.config.block_out_channels) - 1)
    way = _way(module, raw, pieces, pixels=raw[0, 0].numel() * edges**2)
    run = {"sliced": decode_sliced, "tiled": decode_tiled}.get(way, _decode)
    return _items(run, module, raw, at_once=way == "whole").float()


def _way(
    module: Any, x: Tensor, pieces: Pieces, *, pixels: int
) -> Literal["whole", "items", "sliced", "tiled"]:
    """How a batch of images of so many pixels each is run; "items" is whole, one after the other.

    Where gradients pass through, all is held for them anyway: whole.
    """
    if torch.is_grad_enabled() and (x.requires_grad or any(one.requires_grad for one in module.parameters())):
        return "whole"
    if pieces == "auto":
        if pixels > WHOLE and can_be_sliced(module):
            return "sliced"
        return "whole" if len(x) * pixels <= WHOLE else "items"
    if pieces != "whole" and not can_be_sliced(module):
        raise ModelError(
            f"this autoencoder has layers that cannot be run {pieces}, such as attention between its levels; "
            'choose "whole"'
        )
    return pieces


def _items(run: Callable[[Any, Tensor], Tensor], module: Any, x: Tensor, *, at_once: bool) -> Tensor:
    return run(module, x) if at_once or len(x) == 1 else torch.cat([run(module, one[None]) for one in x])


def _encode(module: Any, images: Tensor) -> Tensor:
    moments: Tensor = module.encode(images).latent_dist.parameters
    return moments


def _decode(module: Any, latents: Tensor) -> Tensor:
    decoded: Tensor = module.decode(latents).sample
    return decoded


def _close_branches(module: AutoencoderKL) -> None:
    """Start with closed residual branches: the network begins as its linear shortcuts and learns faster from there."""
    for name, layer in module.named_modules():
        if name.endswith(".conv2") and isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
