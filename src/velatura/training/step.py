"""One optimizer step: micro-batches, backward, clipping, update; none is made from numbers that are not finite."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from velatura.adapters.lora import forget_inputs
from velatura.draws import Draw
from velatura.errors import NumericError, RecipeError
from velatura.interfaces import PARTS, Batch, Family, Objective, Parts
from velatura.placement.compiling import CompilerFailed
from velatura.placement.shortage import is_shortage
from velatura.plural import counted
from velatura.training.distribution.sharding import clip_sharded
from velatura.training.distribution.team import Team
from velatura.training.health.finite import all_finite, broken_weights
from velatura.training.health.item_losses import ItemLoss, item_losses, named, not_finite
from velatura.training.health.splitting import Splitter
from velatura.training.optimizers.apart import apart
from velatura.training.optimizers.in_backward import GradientNotFinite, in_backward
from velatura.training.step_result import Computed, StepResult, StepSums

LEAST_SCALE = torch.finfo(torch.float16).tiny  # of the loss: 30 steps in a row overflowed to get there
WIDER = {  # precisions that hold larger numbers, or more exact ones
    torch.float16: 'Use precision = "bf16" or "fp32", or lower the learning rate.',
    torch.bfloat16: 'Lower the learning rate, or use precision = "fp32".',
}


def remedy_for(dtype: torch.dtype) -> str:
    """What helps against numbers that are not finite in a precision."""
    return WIDER.get(dtype, "Lower the learning rate.")


class NotFiniteStep(NumericError):
    """A loss or gradient that is not finite, while all weights are: nothing was updated, and a run could go on."""


class Stepper:
    """Runs optimizer steps. Losses are divided by the step's total weight, so batch sizes never change the scale.

    Each process of a `team` makes its share of the micro-batches; the results, and what is raised for numbers that are
    not finite, are those of the whole step and the same in all. A `splitter` makes micro-batches smaller; where it
    shrinks them, a step for which memory is short is repeated. An `InBackward` optimizer makes its updates within the
    backward pass.
    """

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
        splitter: Splitter | None = None,
        team: Team | None = None,
    ) -> None:
        self.family = family
        self.parts = parts
        self.objective = objective
        self.optimizer = optimizer
        self.in_backward = in_backward(optimizer)
        self.parameters = list(parameters)
        self.clip = clip
        self.device = device
        self.dtype = dtype
        self.autocast = autocast
        self.splitter = splitter
        self.team = team or Team()
        self.in_hand: Batch | None = None  # the micro-batch whose loss is being computed
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def __call__(self, batches: Sequence[Batch], seed: int, step: int) -> StepResult:
        """Step `step`, counted from 0, over its micro-batches.

        Raises NumericError: before the update for a loss or gradient that is not finite, naming the items or the
        weights that are to blame (NotFiniteStep where it is the items); after it where the trained weights are not
        finite any more; and where fp16 overflows however small the loss is scaled.
        """
        sums = StepSums.over(self.team.gathered(self._accumulate(batches, seed, step)))
        norm = self._update(sums, step)
        return sums.result(norm)

    def precision(self) -> AbstractContextManager[object]:
        """Autocast where float32 weights are trained in a lower precision."""
        if not self.autocast or self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def require_finite(self, per_item: torch.Tensor, names: Sequence[str], t: float, what: str) -> None:
        """Raise NumericError, which begins with `what`, unless the losses `[B]` of items at t are all finite."""
        if bool(torch.isfinite(per_item).all()):
            return
        bad = not_finite(item_losses(names, per_item, torch.full_like(per_item, t)))
        raise self._refusal(what, bad, "Look at these images and captions.")

    def passes(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """The batches as they are computed, perhaps in smaller ones."""
        return batches if self.splitter is None else self.splitter.fitted(batches)

    def _accumulate(self, batches: Sequence[Batch], seed: int, step: int) -> StepSums:
        """The gradients of all micro-batches of this process, divided by the weight of those of all."""
        total = sum(float(batch.weights.sum()) if batch.total is None else batch.total for batch in batches)
        while True:
            try:
                return self._accumulated(self.passes(batches), seed, step, total)
            except CompilerFailed:
                pass  # from now on blocks are run as they are
            except (MemoryError, RuntimeError) as error:
                if not is_shortage(error) or not self._shrink(step):
                    raise
            # the error is gone here, and with it what its frames held
            self.optimizer.zero_grad(set_to_none=True)
            for part in PARTS:
                forget_inputs(self.parts.modules(part))
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _shrink(self, step: int) -> bool:
        return (
            self.splitter is not None
            and self.in_hand is not None
            and self.splitter.shrink(self.in_hand, step + 1)
        )

    def _accumulated(self, batches: Sequence[Batch], seed: int, step: int, total: float) -> StepSums:
        sums, computed = StepSums(), list[Computed]()
        for batch in batches:
            self.in_hand = batch
            draw = Draw(seed=seed, step=step, slots=batch.slots)
            self._backward(batch.to(self.device, self.dtype), draw, total, computed)
            sums.images += 0 if batch.idle else len(batch.names)
        self.in_hand = None
        for one in computed:  # read at the end, so that the device does not wait for what it is told next
            sums.add(float(one.mean), one.items(), one.terms)
        return sums

    def _backward(self, batch: Batch, draw: Draw, total: float, done: list[Computed]) -> None:
        with self.precision():
            losses = self.objective.losses(self.family, self.parts, batch, draw)
        while True:
            with self.precision():
                part = next(losses, None)
            if part is None:
                return
            mean = (part.per_item * part.weight).sum() / total
            computed = Computed.of(batch.names, mean, part)
            if self.in_backward is None:
                self.scaler.scale(mean).backward()
            elif done:
                raise RecipeError(
                    f"optimizer.fused_backward = true: {type(self.objective).__name__} has several losses in a step, "
                    "and weights would be updated between them. Leave it out."
                )
            else:
                self._update_in_backward(mean, computed.items(), draw.step)
            if not batch.idle:
                done.append(computed)

    def _update_in_backward(self, mean: torch.Tensor, items: Sequence[ItemLoss], step: int) -> None:
        """A backward pass that also makes the updates, of the only loss of a step."""
        self._require_finite_loss(items, float(mean.detach()), step)
        try:
            mean.backward()
        except GradientNotFinite as broken:
            what = f"step {step + 1}: the gradient of {broken.name} is not finite"
            if not broken.updated:
                raise self._nothing_updated(what, items, "Lower the learning rate.") from broken
            raise NumericError(
                f"{what} for {named(items)} (computed in {self.dtype}); {broken.updated} of "
                f"{counted(len(self.parameters), 'weight tensor')} had been updated by then, so that this step "
                "cannot be left out: go back to the last state with --resume, and a lower learning rate."
            ) from broken

    def _require_finite_loss(self, items: Sequence[ItemLoss], loss: float, step: int) -> None:
        bad = not_finite(items)
        if bad or not math.isfinite(loss):
            remedy = f"{remedy_for(self.dtype)} Or look at these images and captions."
            raise self._nothing_updated(f"step {step + 1}: the loss is not finite", bad, remedy)

    def _update(self, sums: StepSums, step: int) -> float:
        if self.in_backward is not None:
            norm = self.in_backward.take_norm()
            self._check_update(sums, step)
            return norm
        self._require_finite_loss(sums.items, sums.loss, step)
        self.team.sum_gradients(self.parameters)
        self.scaler.unscale_(self.optimizer)
        limit = self.clip or math.inf
        if any(isinstance(parameter, DTensor) for parameter in self.parameters):
            norm = clip_sharded(self.parameters, limit, self.team)
        else:
            norm = self._clip(limit)
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            what = f"step {step + 1}: the gradient is not finite"
            raise self._nothing_updated(what, sums.items, remedy_for(self.dtype))
        self.scaler.step(self.optimizer)  # leaves a step out when fp16 overflowed
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._check_update(sums, step)
        return norm

    def _clip(self, limit: float) -> float:
        """Clip by the norm of all gradients; the norm before. Torch's own multiplies within the limit too.

        Gradients that wait in the machine's memory are multiplied when they visit the device, where their norms are.
        """
        one_by_one = apart(self.optimizer)
        scaled = self.scaler.is_enabled()  # the norms are those before the scale was taken off
        visits = None if one_by_one is None or scaled else one_by_one.visits
        away: Mapping[nn.Parameter, torch.Tensor] = {} if visits is None else visits.norms
        ready = [parameter for parameter in self.parameters if parameter.grad is not None]
        here = [parameter for parameter in ready if parameter not in away]
        if len(here) == len(ready):
            total = nn.utils.get_total_norm(
                [parameter.grad for parameter in ready if parameter.grad is not None]
            )
        else:
            gradients = [parameter.grad for parameter in here if parameter.grad is not None]
            norms = {**away, **dict(zip(here, torch._foreach_norm(gradients) if here else (), strict=True))}
            total = torch.linalg.vector_norm(torch.stack([norms[parameter] for parameter in ready]))
        norm = float(total)
        over = limit / (norm + 1e-6) < 1
        if over:
            nn.utils.clip_grads_with_norm_(here, limit, total)
        if visits is not None and away:
            visits.clip = limit / (total + 1e-6) if over else None
        return norm

    def _check_update(self, sums: StepSums, step: int) -> None:
        one_by_one = apart(self.optimizer)
        if not (all_finite(self.parameters) if one_by_one is None else one_by_one.take_finite()):
            raise NumericError(
                f"step {step + 1}: its update made trained weights that are not finite, and they are not saved; it was "
                f"made from {named(sums.items)} (computed in {self.dtype}). "
                f"Lower the learning rate (it was {self.optimizer.param_groups[0]['lr']:g})."
            )
        if self.scaler.is_enabled() and self.scaler.get_scale() < LEAST_SCALE:
            raise NumericError(
                f"step {step + 1}: fp16 overflowed in each of the last steps, however small the loss was scaled. "
                + remedy_for(self.dtype)
            )

    def _nothing_updated(self, what: str, items: Sequence[ItemLoss], remedy: str) -> NumericError:
        self.optimizer.zero_grad(set_to_none=True)
        return self._refusal(what, items, f"Nothing was updated. {remedy}")

    def _refusal(self, what: str, items: Sequence[ItemLoss], rest: str) -> NumericError:
        """Of a number that is not finite: broken weights explain it better than the items at hand."""
        if broken := broken_weights(self.parameters, self.parts):
            return NumericError(f"{what}, because {broken} (computed in {self.dtype}).")
        return NotFiniteStep(f"{what} for {named(items)} (computed in {self.dtype}). {rest}")
