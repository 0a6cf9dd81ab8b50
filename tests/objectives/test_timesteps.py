"""Distributions of t: closed forms, and the vectors that sd-scripts' code gave."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import pytest
import torch

from velatura.draws import Draw
from velatura.families.flux import FlowSchedule
from velatura.objectives.flow import Flow
from velatura.objectives.timesteps import logit_normal, shift
from velatura.recipe.objectives.flow import FlowObjective

from .conftest import Fake

COUNT = 20_000


def drawn(**options: Any) -> torch.Tensor:
    flow = Flow(FlowObjective(**options), guidance=1.0)
    return flow.times(Fake(), torch.zeros(COUNT, 2, 4, 4), Draw.of(1, slots=COUNT))  # type: ignore[arg-type]


def logit(t: float) -> float:
    return math.log(t / (1 - t))


def unshifted(t: float, factor: float) -> float:
    return t / (factor - (factor - 1) * t)


@pytest.mark.parametrize(
    ("options", "below"),
    [
        ({"timesteps": "uniform"}, lambda t: t),
        ({"timesteps": "sigmoid"}, lambda t: NormalDist().cdf(logit(t))),
        ({"timesteps": "sigmoid", "sigmoid_scale": 2.0}, lambda t: NormalDist(sigma=2).cdf(logit(t))),
        ({"timesteps": "shift"}, lambda t: NormalDist().cdf(logit(unshifted(t, 3.1582)))),
        ({"timesteps": "flux_shift"}, lambda t: NormalDist(mu=0.63).cdf(logit(t))),
    ],
)
def test_quantiles(options: dict[str, Any], below: Any) -> None:
    """The share of draws below q, within four deviations, for q over the whole range."""
    t = drawn(**options)
    assert t.dtype == torch.float32
    assert float(t.min()) > 0
    assert float(t.max()) < 1
    for q in (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98):
        share, expected = float((t < q).float().mean()), below(q)
        assert abs(share - expected) < 4 * (expected * (1 - expected) / COUNT) ** 0.5, q


def test_shift_has_the_values_of_the_discrete_flow_schedules() -> None:
    t = 1 - torch.tensor([0, 100, 250, 500, 750, 900, 999]) / 1000
    for factor, expected in {
        3: [1, 0.964286, 0.9, 0.75, 0.5, 0.25, 0.002994],
        5: [1, 0.978261, 0.9375, 0.833333, 0.625, 0.357143, 0.00498],
        6: [1, 0.981818, 0.947368, 0.857143, 0.666667, 0.4, 0.00597],
    }.items():
        torch.testing.assert_close(shift(t, factor), torch.tensor(expected), atol=1e-6, rtol=1e-4)


def test_flux_shift_has_the_values_of_sd_scripts() -> None:
    """mu = 0.63 at 1024 tokens and 1.15 at 4096."""
    t = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    for tokens, expected in {
        1024: [0.172612, 0.384945, 0.652489, 0.849235, 0.944129],
        4096: [0.259758, 0.512844, 0.759511, 0.904531, 0.966014],
    }.items():
        torch.testing.assert_close(FlowSchedule().shift(t, tokens), torch.tensor(expected), atol=1e-6, rtol=0)


def test_the_ends_stay_where_they_are() -> None:
    ends = torch.tensor([0.0, 1.0])
    assert shift(ends, 3.0).tolist() == [0, 1]
    torch.testing.assert_close(FlowSchedule().shift(ends, 4096), ends, atol=1e-6, rtol=0)


def test_logit_normal_is_symmetric() -> None:
    x = torch.linspace(-3, 3, 13)
    torch.testing.assert_close(logit_normal(x, 1.5) + logit_normal(-x, 1.5), torch.ones(13))
