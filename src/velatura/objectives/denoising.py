"""What all denoising objectives share: where latents and conditioning come from, and the error at one noise level."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from velatura.draws import Draw
from velatura.errors import ModelError
from velatura.interfaces import Batch, Conditioning, Family, Objective, Parts


class Denoising(Objective):
    """An objective that mixes latents with noise and asks the denoiser to tell them apart."""

    @abstractmethod
    def errors(
        self, family: Family, parts: Parts, batch: Batch, draw: Draw, latents: Tensor, t: Tensor
    ) -> Tensor:
        """Unweighted error per item `[B]` of latents `[B, C, H, W]` at noise levels t `[B]`."""

    def at(self, family: Family, parts: Parts, batch: Batch, draw: Draw, t: float) -> Tensor:
        """Unweighted error per item `[B]` at one noise level, for validation."""
        latents = latents_of(family, parts, batch, draw)
        times = torch.full((len(batch.names),), t, device=latents.device)
        return self.errors(family, parts, batch, draw, latents, times)


def condition(family: Family, parts: Parts, batch: Batch) -> Conditioning:
    """Cached conditioning, else that of the prompts now (captions were already dropped when the batch was made)."""
    if batch.conditioning is not None:
        return batch.conditioning
    device = batch.weights.device  # the encoders may be elsewhere
    return family.encode(parts, batch.prompts).map(lambda tensor: tensor.to(device))


def latents_of(family: Family, parts: Parts, batch: Batch, draw: Draw) -> Tensor:
    """Cached latents `[B, C, H, W]`, else a fresh sample of the autoencoder's posterior."""
    if batch.latents is not None:
        return batch.latents
    if batch.images is None:
        raise ModelError("a batch holds neither latents nor images")
    return family.encode_image(parts, batch.images, draw)


def mean_error(squared: Tensor, batch: Batch, compat: str | None = None) -> Tensor:
    """Mean per item `[B]` of squared errors `[B, C, H, W]`, weighted by the batch's loss mask where it has one.

    The mask is brought to H x W by area. An item whose mask is empty has the error 0 and teaches nothing. With
    `compat = "sd-scripts"` the sum is divided by all pixels instead of those that count, so small masks teach less.
    """
    mask = batch.companions.get("mask")
    if mask is None:
        return squared.flatten(1).mean(1)
    weights = F.interpolate(mask.to(squared), squared.shape[2:], mode="area")
    if compat == "sd-scripts":
        return (squared * weights).flatten(1).mean(1)
    counted = weights.flatten(1).sum(1) * squared.shape[1]
    return (squared * weights).flatten(1).sum(1) / counted.clamp_min(torch.finfo(squared.dtype).tiny)
