"""Denoising on a discrete schedule: predict the noise, or v = alpha noise - sigma image (arXiv:2202.00512)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from velatura.draws import Draw
from velatura.interfaces import Batch, Family, Loss, Parts
from velatura.objectives.denoising import Denoising, condition, latents_of, mean_error
from velatura.objectives.weighting import min_snr
from velatura.recipe.objectives.diffusion import DiffusionObjective

STEPS = 1000


class Diffusion(Denoising):
    """Mean squared error of the prediction, per item."""

    def __init__(self, config: DiffusionObjective) -> None:
        self.config = config

    def losses(self, family: Family, parts: Parts, batch: Batch, draw: Draw) -> Iterator[Loss]:
        """One loss, at a uniformly drawn step of the schedule."""
        latents = latents_of(family, parts, batch, draw)
        steps = torch.tensor(draw.integers("t", STEPS), device=latents.device)
        t = steps.float() / (STEPS - 1)
        per_item = self.errors(family, parts, batch, draw, latents, t)
        if self.config.min_snr_gamma is not None:
            alpha, sigma = family.schedule.alpha(t), family.schedule.sigma(t)
            per_item = per_item * min_snr(alpha, sigma, self.config.min_snr_gamma, parts.info.prediction)
        yield Loss(per_item=per_item, weight=batch.weights, t=t)

    def errors(
        self, family: Family, parts: Parts, batch: Batch, draw: Draw, latents: Tensor, t: Tensor
    ) -> Tensor:
        """Squared error `[B]` of the noise, or of v, where the mask counts."""
        conditioning = condition(family, parts, batch)
        noise = draw.normal("noise", latents.shape[1:]).to(latents.device)
        if self.config.noise_offset:
            offset = draw.normal("noise offset", (latents.shape[1], 1, 1)).to(latents.device)
            noise = noise + self.config.noise_offset * offset
        at = t.view(-1, 1, 1, 1)
        alpha, sigma = family.schedule.alpha(at), family.schedule.sigma(at)
        predicted = family.predict(parts, alpha * latents + sigma * noise, t, conditioning)
        wanted = alpha * noise - sigma * latents if parts.info.prediction == "v" else noise
        return mean_error((predicted - wanted).square(), batch, self.config.compat)
