"""Reconstruction: trains the autoencoder itself, and afterwards sets the scale of its latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from velatura.draws import Draw
from velatura.errors import ModelError
from velatura.interfaces import Batch, Family, Loss, Objective, PartName, Parts
from velatura.recipe.objectives.autoencoder import AutoencoderObjective


class Autoencoder(Objective):
    """|d| + d^2 of pixels and of their gradients, plus a little KL to keep latents bounded."""

    needs: tuple[PartName, ...] = ("autoencoder",)
    reads = "images"

    def __init__(self, config: AutoencoderObjective) -> None:
        self.config = config

    def losses(self, family: Family, parts: Parts, batch: Batch, draw: Draw) -> Iterator[Loss]:
        """One loss over the batch's images, or random crops of them."""
        images = self._crops(_images(batch), draw)
        autoencoder: Any = parts.autoencoder
        posterior = autoencoder.encode(images).latent_dist
        noise = draw.normal("posterior", posterior.mean.shape[1:]).to(images.device)
        decoded = autoencoder.decode(posterior.mean + posterior.std * noise).sample
        pixels = _distance(decoded, images)
        edges = sum(_distance(decoded.diff(dim=dim), images.diff(dim=dim)) for dim in (2, 3))
        kl = posterior.kl().float() / noise[0].numel()
        per_item = pixels + self.config.gradient_weight * edges + self.config.kl_weight * kl
        yield Loss(per_item=per_item, weight=batch.weights, terms={"pixels": float(pixels.detach().mean())})

    def at(self, family: Family, parts: Parts, batch: Batch, draw: Draw, t: float) -> Tensor:
        """Mean squared pixel error `[B]` of mean reconstructions (t plays no part): PSNR = 10 log10(4 / error)."""
        images = _images(batch)
        decoded = family.decode_latents(parts, family.encode_image(parts, images)).clamp(-1, 1)
        return (decoded - images).square().flatten(1).mean(1)

    @torch.no_grad()
    def finish(self, family: Family, parts: Parts, batches: Iterator[Batch]) -> None:
        """Set shift and scale so that latents have mean 0 and deviation 1 over some batches."""
        autoencoder: Any = parts.autoencoder
        means = (autoencoder.encode(_images(batch)).latent_dist.mean for batch in batches)
        values = torch.cat([mean.float().flatten() for mean in means])  # batches differ in size
        autoencoder.register_to_config(
            shift_factor=round(float(values.mean()), 6), scaling_factor=round(1 / float(values.std()), 6)
        )

    def _crops(self, images: Tensor, draw: Draw) -> Tensor:
        edge = self.config.crop
        if edge is None or min(images.shape[2:]) <= edge:
            return images
        at = draw.uniform("crop", (2,))
        tops = (at[:, 0] * (images.shape[2] - edge + 1)).int().tolist()
        lefts = (at[:, 1] * (images.shape[3] - edge + 1)).int().tolist()
        return torch.stack(
            [img[:, y : y + edge, x : x + edge] for img, y, x in zip(images, tops, lefts, strict=True)]
        )


def _images(batch: Batch) -> Tensor:
    if batch.images is None:
        raise ModelError("the autoencoder objective trains on images, and the batch holds none")
    return batch.images


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """|d| + d^2 per item `[B]`."""
    a, b = a.float(), b.float()
    return F.l1_loss(a, b, reduction="none").flatten(1).mean(1) + (a - b).square().flatten(1).mean(1)
