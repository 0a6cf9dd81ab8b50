"""The discrete noise schedule of Stable Diffusion, seen over t in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from velatura.errors import ModelError
from velatura.interfaces import Prediction, Schedule

PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "noise", "v_prediction": "v"}
_SNAP = 1e-3  # steps: float32 cannot hold k / 999 exactly, so what is this near to a step is that step


class NoiseSchedule(Schedule):
    """x_k = sqrt(abar_k) x0 + sqrt(1 - abar_k) noise (arXiv:2006.11239, eq. 4) with k = t (K - 1).

    `kept` is abar `[K]`, the share of the image's variance that is left after step k; between steps it is
    interpolated linearly, so alpha^2 + sigma^2 is 1 everywhere.
    """

    def __init__(self, kept: Tensor) -> None:
        self.kept = kept.float()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """From a diffusers scheduler's config. Raises ModelError for a kind of schedule that is not known."""
        kept = (1 - _betas(config)).cumprod(0)
        if config.get("rescale_betas_zero_snr"):
            kept = _no_signal_at_the_end(kept)
        return cls(kept)

    def alpha(self, t: Tensor) -> Tensor:
        """sqrt(abar_k)."""
        return self._kept_at(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - abar_k)."""
        return (1 - self._kept_at(t)).sqrt()

    def step(self, t: Tensor) -> Tensor:
        """k, which the UNet wants: 0 … K - 1, fractional between steps, float32."""
        k = t.float() * (len(self.kept) - 1)
        whole = k.round()
        return torch.where((k - whole).abs() < _SNAP, whole, k)

    def times(self, steps: int, tokens: int) -> Tensor:
        """Trailing spacing (arXiv:2305.08891, table 2): k = K - 1 and every K / steps below, then 0.

        It starts at the noisiest step, where pure noise belongs; diffusers' default for SD 1.5, "leading", starts
        below it. `tokens` plays no part.
        """
        count = len(self.kept)
        back = torch.arange(steps, dtype=torch.float64) * (count / steps)
        k = torch.cat(((count - back).round() - 1, torch.zeros(1, dtype=torch.float64)))
        return (k / (count - 1)).float()

    def _kept_at(self, t: Tensor) -> Tensor:
        k = self.step(t)
        low = k.floor().long().clamp(0, len(self.kept) - 2)
        table = self.kept.to(t.device)
        return torch.lerp(table[low], table[low + 1], k - low)


def prediction_of(config: Mapping[str, Any]) -> Prediction:
    """What the denoiser predicts. Raises ModelError for a kind that is not known."""
    kind = str(config.get("prediction_type", "epsilon"))
    if kind not in PREDICTIONS:
        raise ModelError(
            f"the scheduler's config says prediction_type '{kind}'; known are {', '.join(PREDICTIONS)}"
        )
    return PREDICTIONS[kind]


def _betas(config: Mapping[str, Any]) -> Tensor:
    """Variance added by each step, float64 `[K]`."""
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    try:
        kind, count = str(config["beta_schedule"]), int(config["num_train_timesteps"])
        first, last = float(config["beta_start"]), float(config["beta_end"])
    except KeyError as error:
        name = config.get("_class_name", "scheduler")
        raise ModelError(
            f"the config of the {name} has no {error}: it is not one of Stable Diffusion"
        ) from None
    if kind == "linear":
        return torch.linspace(first, last, count, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, count, dtype=torch.float64) ** 2
    raise ModelError(
        f"the scheduler's config says beta_schedule '{kind}'; known are scaled_linear and linear"
    )


def _no_signal_at_the_end(kept: Tensor) -> Tensor:
    """Shift and scale sqrt(abar) so that its last value is 0 and the first stays (arXiv:2305.08891, alg. 1)."""
    root = kept.sqrt()
    moved = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return moved**2
