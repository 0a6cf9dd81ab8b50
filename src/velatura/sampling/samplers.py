"""Samplers: pure functions from noise to latents, given the denoiser's prediction as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from velatura.interfaces import Prediction, Schedule

Predict = Callable[[Tensor, float], Tensor]  # (latents [B, C, H, W], t) -> prediction [B, C, H, W]
Progress = Callable[[int, int], None]  # (steps done, steps in all)

SAMPLERS: Mapping[Prediction, str] = {
    "velocity": "Euler",
    "noise": "DDIM",
    "v": "DDIM",
}  # what `euler` is called


def euler(
    predict: Predict, latents: Tensor, times: Tensor, schedule: Schedule, kind: Prediction, progress: Progress
) -> Tensor:
    """First-order steps along `times` `[steps + 1]`, decreasing; `predict` is asked once at each, in this order.

    For velocities this is Euler's method (arXiv:2209.03003), for noise and v it is DDIM (arXiv:2010.02502, eq. 12,
    eta 0): both keep the predicted image and noise and mix them anew at the next time.
    """
    steps = len(times) - 1
    for done in range(steps):
        now, then = times[done], times[done + 1]
        predicted = predict(latents, float(now)).float()
        if kind == "velocity":
            latents = latents + (then - now) * predicted
        else:
            image, noise = split(predicted, latents, schedule, now, kind)
            latents = schedule.alpha(then) * image + schedule.sigma(then) * noise
        progress(done + 1, steps)
    return latents


def split(
    predicted: Tensor, latents: Tensor, schedule: Schedule, t: Tensor, kind: Prediction
) -> tuple[Tensor, Tensor]:
    """The image and the noise that a noise or v prediction sees in noisy latents at t."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if kind == "noise":
        return (latents - sigma * predicted) / alpha, predicted
    return alpha * latents - sigma * predicted, sigma * latents + alpha * predicted


def part_of(times: Tensor, strength: float) -> Tensor:
    """The end of a schedule that changes an image by `strength` in (0, 1]: the last steps * strength steps."""
    steps = len(times) - 1
    kept = max(1, min(steps, int(steps * strength + 1e-6)))
    return times[steps - kept :]


def guided(positive: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (arXiv:2207.12598): negative + scale (positive - negative)."""
    return torch.lerp(negative, positive, scale)
