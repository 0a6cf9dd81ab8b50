"""One optimizer step: micro-batches, backward, clipping, update; it stops at the first number that is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from velatura.draws import Draw
from velatura.errors import NumericError
from velatura.interfaces import Batch, Family, Objective, Parts


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Weighted mean loss over the step's items, gradient norm before clipping, mean of the logged terms."""

    loss: float
    grad_norm: float
    skipped: bool
    terms: dict[str, float]


class Stepper:
    """Runs optimizer steps. Losses are divided by the step's total weight, so batch sizes never change the scale."""

    def __init__(
        self,
        *,
        family: Family,
        parts: Parts,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        clip: float,
        device: torch.device,
        dtype: torch.dtype,
        autocast: bool,
    ) -> None:
        self.family = family
        self.parts = parts
        self.objective = objective
        self.optimizer = optimizer
        self.parameters = list(parameters)
        self.clip = clip
        self.device = device
        self.dtype = dtype
        self.autocast = autocast
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def __call__(self, batches: Sequence[Batch], seed: int, step: int) -> StepResult:
        """Step `step`, counted from 0, over its micro-batches.

        Raises NumericError, naming the items, before any update.
        """
        total = sum(float(batch.weights.sum()) for batch in batches)
        sums: dict[str, float] = {}
        loss = 0.0
        for batch in batches:
            draw = Draw(seed=seed, step=step, slots=batch.slots)
            loss += self._backward(batch.to(self.device, self.dtype), draw, total, sums, step)
        norm = self._update(batches, step)
        count = len(batches)
        return StepResult(
            loss=loss,
            grad_norm=norm,
            skipped=not math.isfinite(norm),
            terms={name: value / count for name, value in sums.items()},
        )

    def precision(self) -> AbstractContextManager[object]:
        """Autocast where float32 weights are trained in a lower precision."""
        if not self.autocast or self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _backward(self, batch: Batch, draw: Draw, total: float, sums: dict[str, float], step: int) -> float:
        loss = 0.0
        with self.precision():
            losses = self.objective.losses(self.family, self.parts, batch, draw)
        while True:
            with self.precision():
                part = next(losses, None)
            if part is None:
                return loss
            self._check_finite(part.per_item, batch, step)
            mean = (part.per_item * part.weight).sum() / total
            self.scaler.scale(mean).backward()
            loss += float(mean.detach())
            for name, value in part.terms.items():
                sums[name] = sums.get(name, 0.0) + value

    def _check_finite(self, per_item: torch.Tensor, batch: Batch, step: int) -> None:
        finite = torch.isfinite(per_item)
        if bool(finite.all()):
            return
        names = [name for name, good in zip(batch.names, finite.tolist(), strict=True) if not good]
        raise NumericError(
            f"step {step + 1}: the loss is not finite for {', '.join(names)} (computed in {self.dtype}). "
            'Nothing was updated. Lower the learning rate, use precision = "bf16" or "fp32", '
            "or look at these images and captions."
        )

    def _update(self, batches: Sequence[Batch], step: int) -> float:
        self.scaler.unscale_(self.optimizer)
        limit = self.clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.parameters, limit))
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            names = [name for batch in batches for name in batch.names]
            self.optimizer.zero_grad(set_to_none=True)
            raise NumericError(
                f"step {step + 1}: the gradient is not finite for {', '.join(names)} (computed in {self.dtype}). "
                "Nothing was updated. Lower the learning rate or use a wider precision."
            )
        self.scaler.step(self.optimizer)  # leaves a step out when fp16 overflowed
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm
