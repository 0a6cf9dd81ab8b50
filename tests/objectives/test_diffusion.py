"""The diffusion objective on Stable Diffusion's schedule, worked out by hand in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from velatura.draws import Draw
from velatura.interfaces import Batch, Prediction
from velatura.objectives.diffusion import Diffusion
from velatura.recipe.objectives.diffusion import DiffusionObjective

from .conftest import KEPT, SHAPE, Fake, noise_schedule, parts


@pytest.fixture
def family() -> Any:
    return Fake(schedule=noise_schedule())


def by_hand(batch: Batch, n: Any, k: Any, prediction: Prediction) -> tuple[Any, Any]:
    """Squared error per item, and the signal-to-noise ratio abar / (1 - abar)."""
    assert batch.latents is not None
    abar = KEPT.numpy()[k]
    a, s = np.sqrt(abar)[:, None, None, None], np.sqrt(1 - abar)[:, None, None, None]
    x0 = batch.latents.double().numpy()
    shift = (k / 999 + np.array([1.0, 2.0, 3.0]) + 1.0)[:, None, None, None]
    predicted = 2 * (a * x0 + s * n) + shift
    wanted = n if prediction == "noise" else a * n - s * x0
    return ((predicted - wanted) ** 2).mean((1, 2, 3)), abar / (1 - abar)


@pytest.mark.parametrize("prediction", ["noise", "v"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_losses_by_hand(
    family: Any, batch: Batch, draw: Draw, prediction: Prediction, gamma: float | None
) -> None:
    objective = Diffusion(DiffusionObjective(min_snr_gamma=gamma))
    (loss,) = objective.losses(family, parts(prediction), batch, draw)
    k = np.array(draw.integers("t", 1000))
    expected, snr = by_hand(batch, draw.normal("noise", SHAPE).double().numpy(), k, prediction)
    if gamma is not None:
        expected = expected * np.minimum(snr, gamma) / (snr + 1 if prediction == "v" else snr)
    np.testing.assert_allclose(loss.per_item.numpy(), expected, rtol=1e-4)
    assert torch.equal(loss.weight, batch.weights)


def test_noise_offset_is_one_number_per_channel_in_input_and_target(
    family: Any, batch: Batch, draw: Draw
) -> None:
    objective = Diffusion(DiffusionObjective(noise_offset=0.1))
    (loss,) = objective.losses(family, parts("noise"), batch, draw)
    offset = draw.normal("noise offset", (2, 1, 1)).double().numpy()
    n = draw.normal("noise", SHAPE).double().numpy() + 0.1 * offset
    expected, _ = by_hand(batch, n, np.array(draw.integers("t", 1000)), "noise")
    np.testing.assert_allclose(loss.per_item.numpy(), expected, rtol=1e-4)


def test_every_step_of_the_schedule_is_drawn_evenly() -> None:
    k = np.array(Draw.of(0, slots=10_000).integers("t", 1000))
    assert (k.min(), k.max()) == (0, 999)
    counts = np.histogram(k, 20, (0, 1000))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001


def test_times_sit_on_the_steps(family: Any, batch: Batch, draw: Draw) -> None:
    list(Diffusion(DiffusionObjective()).losses(family, parts("noise"), batch, draw))
    (_, t) = family.calls[0]
    assert family.schedule.step(t).tolist() == draw.integers("t", 1000)


def test_validation_is_the_unweighted_error_at_one_time(family: Any, batch: Batch, draw: Draw) -> None:
    objective = Diffusion(DiffusionObjective(min_snr_gamma=5.0))
    found = objective.at(family, parts("noise"), batch, draw, 333 / 999)
    expected, _ = by_hand(batch, draw.normal("noise", SHAPE).double().numpy(), np.array([333] * 3), "noise")
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)
