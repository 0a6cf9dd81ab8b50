"""The conditioning of a batch: from the cache, or from the text encoders."""

from __future__ import annotations

from torch import Tensor

from velatura.draws import Draw
from velatura.errors import ModelError
from velatura.interfaces import Batch, Conditioning, Family, Parts


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
