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
from velatura.training.finite import all_finite, broken_weights

LEAST_SCALE = torch.finfo(torch.float16).tiny  # of the loss: 30 steps in a row overflowed to get there
FP16_REMEDY = 'Use precision = "bf16" or "fp32", or lower the learning rate.'


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Weighted mean loss over the step's items, gradient norm before clipping, mean over items of the logged terms."""

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

        Raises NumericError: before the update for a loss or gradient that is not finite, naming the items or the
        weights that are to blame; after it where the trained weights are not finite any more; and where fp16 overflows
        however small the loss is scaled.
        """
        total = sum(float(batch.weights.sum()) for batch in batches)
        sums: dict[str, float] = {}
        loss = 0.0
        for batch in batches:
            draw = Draw(seed=seed, step=step, slots=batch.slots)
            loss += self._backward(batch.to(self.device, self.dtype), draw, total, sums, step)
        norm = self._update(batches, step)
        items = sum(len(batch.names) for batch in batches)
        return StepResult(
            loss=loss,
            grad_norm=norm,
            skipped=not math.isfinite(norm),
            terms={name: value / items for name, value in sums.items()},
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
            self.check_finite(part.per_item, batch.names, f"step {step + 1}")
            mean = (part.per_item * part.weight).sum() / total
            self.scaler.scale(mean).backward()
            loss += float(mean.detach())
            for name, value in part.terms.items():
                sums[name] = sums.get(name, 0.0) + value * len(batch.names)

    def check_finite(self, per_item: torch.Tensor, names: Sequence[str], when: str) -> None:
        """Raise NumericError unless the losses `[B]` of the items `names` are all finite; `when` begins the message."""
        finite = torch.isfinite(per_item)
        if bool(finite.all()):
            return
        bad = ", ".join(name for name, good in zip(names, finite.tolist(), strict=True) if not good)
        raise self._refusal(
            f"{when}: the loss is not finite",
            f"for {bad}",
            'Lower the learning rate, use precision = "bf16" or "fp32", or look at these images and captions.',
        )

    def _update(self, batches: Sequence[Batch], step: int) -> float:
        self.scaler.unscale_(self.optimizer)
        limit = self.clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.parameters, limit))
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            names = ", ".join(name for batch in batches for name in batch.names)
            self.optimizer.zero_grad(set_to_none=True)
            what = f"step {step + 1}: the gradient is not finite"
            raise self._refusal(what, f"for {names}", "Lower the learning rate or use a wider precision.")
        self.scaler.step(self.optimizer)  # leaves a step out when fp16 overflowed
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._check_update(step)
        return norm

    def _check_update(self, step: int) -> None:
        if not all_finite(self.parameters):
            raise NumericError(
                f"step {step + 1}: its update made trained weights that are not finite, and they are not saved. "
                f"Lower the learning rate (it was {self.optimizer.param_groups[0]['lr']:g})."
            )
        if self.scaler.is_enabled() and self.scaler.get_scale() < LEAST_SCALE:
            raise NumericError(
                f"step {step + 1}: fp16 overflowed in each of the last steps, however small the loss was scaled. "
                + FP16_REMEDY
            )

    def _refusal(self, what: str, which: str, remedy: str) -> NumericError:
        """Of a number that is not finite: broken weights explain it better than the items at hand."""
        if broken := broken_weights(self.parameters, self.parts):
            return NumericError(f"{what}, because {broken} (computed in {self.dtype}). Nothing was updated.")
        return NumericError(f"{what} {which} (computed in {self.dtype}). Nothing was updated. {remedy}")
