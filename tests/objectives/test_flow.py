"""The flow objective, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from velatura.draws import Draw
from velatura.interfaces import Batch
from velatura.objectives.flow import Flow
from velatura.recipe.objectives.flow import FlowObjective

from .conftest import SHAPE, parts


def by_hand(batch: Batch, draw: Draw, t: Any, guidance: float) -> Any:
    """mean over C, H, W of (2 ((1 - t) x0 + t n) + t + p + g - (n - x0))^2, per item, in float64."""
    assert batch.latents is not None
    x0 = batch.latents.double().numpy()
    n = draw.normal("noise", SHAPE).double().numpy()
    p = np.array([1.0, 2.0, 3.0])
    at, shift = t[:, None, None, None], (t + p + guidance)[:, None, None, None]
    predicted = 2 * ((1 - at) * x0 + at * n) + shift
    return ((predicted - (n - x0)) ** 2).mean((1, 2, 3))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({"timesteps": "uniform"}, lambda draw: draw.uniform("t").double().numpy()),
        ({"timesteps": "sigmoid"}, lambda draw: sigmoid(draw.normal("t", ()).double().numpy())),
        (
            {"timesteps": "sigmoid", "sigmoid_scale": 0.5},
            lambda draw: sigmoid(0.5 * draw.normal("t", ()).double().numpy()),
        ),
        (
            {"timesteps": "shift", "shift": 3.0},
            lambda draw: 1 / (1 + (1 / sigmoid(draw.normal("t", ()).double().numpy()) - 1) / 3),
        ),
        (  # 1024 tokens: mu = 0.63, which is a factor of e^0.63
            {"timesteps": "flux_shift"},
            lambda draw: 1 / (1 + (1 / sigmoid(draw.normal("t", ()).double().numpy()) - 1) / np.exp(0.63)),
        ),
    ],
)
@pytest.mark.parametrize("weighting", ["none", "sigma_sqrt", "cosmap"])
def test_losses_by_hand(
    family: Any, batch: Batch, draw: Draw, options: dict[str, Any], times: Any, weighting: str
) -> None:
    flow = Flow(FlowObjective(**options, weighting=weighting), guidance=3.5)  # type: ignore[arg-type]
    (loss,) = flow.losses(family, parts("velocity"), batch, draw)
    t = times(draw)
    weight = {
        "none": np.ones(3),
        "sigma_sqrt": t**-2.0,
        "cosmap": 2 / (np.pi * (1 - 2 * t + 2 * t * t)),
    }[weighting]
    np.testing.assert_allclose(loss.per_item.numpy(), by_hand(batch, draw, t, 3.5) * weight, rtol=2e-5)
    assert torch.equal(loss.weight, batch.weights)
    np.testing.assert_allclose(family.calls[0][1].numpy(), t, rtol=1e-5)


def test_validation_is_the_unweighted_error_at_one_time(family: Any, batch: Batch, draw: Draw) -> None:
    flow = Flow(FlowObjective(weighting="sigma_sqrt"), guidance=1.0)
    found = flow.at(family, parts("velocity"), batch, draw, 0.25)
    np.testing.assert_allclose(found.numpy(), by_hand(batch, draw, np.full(3, 0.25), 1.0), rtol=2e-5)


def test_without_caches_encoders_run_and_the_posterior_is_sampled(
    family: Any, batch: Batch, draw: Draw
) -> None:
    images = Draw.of(3, slots=3).normal("images", (3, *SHAPE[1:]))
    raw = replace(batch, latents=None, conditioning=None, images=images)
    sampled = images[:, :2] + draw.normal("posterior", SHAPE)
    flow = Flow(FlowObjective(), guidance=1.0)
    (found,) = flow.losses(family, parts("velocity"), raw, draw)
    (cached,) = flow.losses(family, parts("velocity"), replace(batch, latents=sampled), draw)
    torch.testing.assert_close(found.per_item, cached.per_item)


def test_an_item_does_not_see_the_rest_of_its_batch(family: Any, batch: Batch, draw: Draw) -> None:
    flow = Flow(FlowObjective(), guidance=1.0)
    (whole,) = flow.losses(family, parts("velocity"), batch, draw)
    assert batch.latents is not None
    assert batch.conditioning is not None
    last = replace(
        batch,
        names=batch.names[2:],
        prompts=batch.prompts[2:],
        weights=batch.weights[2:],
        slots=batch.slots[2:],
        latents=batch.latents[2:],
        conditioning=batch.conditioning.select([2]),
    )
    (alone,) = flow.losses(family, parts("velocity"), last, draw.select([2]))
    torch.testing.assert_close(alone.per_item, whole.per_item[2:])
