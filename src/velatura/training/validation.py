"""Loss on held-out images at fixed noise and fixed times: comparable from step to step and run to run."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch

from velatura.draws import Draw
from velatura.interfaces import Batch
from velatura.training.step import Stepper

SEED = 1  # apart from the run's seed, so that runs with other seeds can be compared


def noise_levels(count: int) -> list[float]:
    """`count` times, evenly spaced inside (0, 1): 4 gives 0.125, 0.375, 0.625, 0.875."""
    return [(i + 0.5) / count for i in range(count)]


@torch.no_grad()
def validation_loss(stepper: Stepper, batches: Iterable[Batch], times: int) -> float:
    """Mean error over items and noise levels. The noise of an item depends on its slot alone.

    Raises NumericError, naming the items, for an error that is not finite.
    """
    total, weight = 0.0, 0.0
    for batch in chain.from_iterable(stepper.passes([batch]) for batch in batches):
        moved = batch.to(stepper.device, stepper.dtype)
        draw = Draw(seed=SEED, step=0, slots=batch.slots)
        for t in noise_levels(times):
            with stepper.precision():
                errors = stepper.objective.at(stepper.family, stepper.parts, moved, draw, t)
            stepper.require_finite(errors, batch.names, t, "validation: the loss is not finite")
            total += float((errors.float() * moved.weights).sum())
            weight += float(moved.weights.sum())
    total, weight = stepper.team.sums([total, weight])
    return total / max(weight, 1e-12)
