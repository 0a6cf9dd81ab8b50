"""Rectified flow matching: predict the velocity noise - image at a random time (arXiv:2209.03003)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from velatura.draws import Draw
from velatura.interfaces import Batch, Family, Loss, Parts
from velatura.objectives.denoising import Denoising, condition, latents_of, mean_error
from velatura.objectives.timesteps import logit_normal, shift
from velatura.objectives.weighting import flow_weight
from velatura.recipe.objectives.flow import FlowObjective


class Flow(Denoising):
    """Mean squared error of the velocity, per item."""

    def __init__(self, config: FlowObjective, *, guidance: float) -> None:
        self.config = config
        self.guidance = guidance

    def losses(self, family: Family, parts: Parts, batch: Batch, draw: Draw) -> Iterator[Loss]:
        """One loss. Its weight is the batch's; w(t) scales the error itself, so it never cancels out."""
        latents = latents_of(family, parts, batch, draw)
        t = self.times(family, latents, draw).to(latents.device)
        per_item = self.errors(family, parts, batch, draw, latents, t)
        yield Loss(per_item=per_item * flow_weight(t, self.config.weighting), weight=batch.weights, t=t)

    def errors(
        self, family: Family, parts: Parts, batch: Batch, draw: Draw, latents: Tensor, t: Tensor
    ) -> Tensor:
        """Squared velocity error `[B]`, where the mask counts."""
        conditioning = condition(family, parts, batch)
        noise = draw.normal("noise", latents.shape[1:]).to(latents.device)
        at = t.view(-1, 1, 1, 1)
        noisy = family.schedule.alpha(at) * latents + family.schedule.sigma(at) * noise
        velocity = family.predict(parts, noisy, t, conditioning, guidance=self.guidance)
        return mean_error((velocity - (noise - latents)).square(), batch, self.config.compat)

    def times(self, family: Family, latents: Tensor, draw: Draw) -> Tensor:
        """t per item, float32 `[B]`, as `timesteps` says."""
        config = self.config
        if config.timesteps == "uniform":
            return draw.uniform("t").clamp(1e-5, 1 - 1e-5)
        t = logit_normal(draw.normal("t", ()), config.sigmoid_scale)
        if config.timesteps == "shift":
            return shift(t, config.shift)
        if config.timesteps == "flux_shift":
            return family.schedule.shift(t, family.tokens(latents))
        return t
