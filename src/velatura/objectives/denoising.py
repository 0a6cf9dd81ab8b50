"""What all denoising objectives share: where latents and conditioning come from, and the error at one noise level."""

from __future__ import annotations

from abc import abstractmethod

import torch
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
    return family.encode(parts, batch.prompts)


def latents_of(family: Family, parts: Parts, batch: Batch, draw: Draw) -> Tensor:
    """Cached latents `[B, C, H, W]`, else a fresh sample of the autoencoder's posterior."""
    if batch.latents is not None:
        return batch.latents
    if batch.images is None:
        raise ModelError("a batch holds neither latents nor images")
    return family.encode_image(parts, batch.images, draw)
