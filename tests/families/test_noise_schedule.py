from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from velatura.checkpoints.published import load_config
from velatura.errors import ModelError
from velatura.families.noise_schedule import NoiseSchedule, prediction_of
from velatura.sampling.samplers import euler

SD15 = load_config("sd15-scheduler")
ALL = torch.arange(1000)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"rescale_betas_zero_snr": True},
        {"trained_betas": [0.01 + k / 1e5 for k in range(1000)]},
    ],
)
def test_alpha_and_sigma_equal_diffusers_at_every_step(changes: dict[str, Any]) -> None:
    config = {**SD15, **changes}
    kept = DDPMScheduler.from_config(config).alphas_cumprod
    schedule, t = NoiseSchedule.from_config(config), ALL / 999
    assert torch.equal(schedule.step(t), ALL.float())
    torch.testing.assert_close(schedule.alpha(t), kept.sqrt(), atol=1e-6, rtol=0)
    torch.testing.assert_close(schedule.sigma(t), (1 - kept).sqrt(), atol=5e-6, rtol=0)


def test_the_ends_by_hand() -> None:
    """beta_0 = 0.00085, so abar_0 = 0.99915; the published SD 1.x ends at sqrt(abar_999) = 0.0682."""
    schedule = NoiseSchedule.from_config(SD15)
    assert float(schedule.alpha(torch.tensor(0.0))) == pytest.approx(math.sqrt(0.99915), abs=1e-6)
    assert float(schedule.sigma(torch.tensor(0.0))) == pytest.approx(math.sqrt(0.00085), abs=1e-5)
    assert float(schedule.alpha(torch.tensor(1.0))) == pytest.approx(0.0682, abs=1e-4)


@given(st.floats(0, 1))
def test_between_steps(value: float) -> None:
    schedule, t = NoiseSchedule.from_config(SD15), torch.tensor(value)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert float(alpha**2 + sigma**2) == pytest.approx(1, abs=1e-5)
    k = float(schedule.step(t))
    around = schedule.alpha(torch.tensor([math.floor(k) / 999, math.ceil(k) / 999]))
    assert float(around[1]) - 1e-6 <= float(alpha) <= float(around[0]) + 1e-6
    assert alpha.shape == t.shape


@pytest.mark.parametrize("steps", [1, 3, 7, 16, 25, 30, 50, 999, 1000])
def test_times_have_trailing_spacing(steps: int) -> None:
    schedule = NoiseSchedule.from_config(SD15)
    scheduler = DDIMScheduler.from_config(SD15, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    times = schedule.times(steps, 4096)
    assert schedule.step(times)[:-1].tolist() == scheduler.timesteps.tolist()
    assert (len(times), float(times[0]), float(times[-1])) == (steps + 1, 1.0, 0.0)
    assert bool((times.diff() <= 0).all())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 4, 25, 50])
def test_sampling_equals_the_ddim_scheduler(kind: str, steps: int) -> None:
    """With a network that is a fixed function of latents and k; steps divide 1000, as diffusers takes them to."""
    config = {**SD15, "prediction_type": kind}
    scheduler = DDIMScheduler.from_config(config, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    schedule = NoiseSchedule.from_config(config)

    def network(latents: torch.Tensor, k: float) -> torch.Tensor:
        return torch.tanh(latents.roll(1, -1) + k / 1000) + 0.3 * latents

    noise = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = noise
    for k in scheduler.timesteps:
        expected = scheduler.step(network(expected, float(k)), k, expected).prev_sample
    found = euler(
        lambda latents, t: network(latents, float(schedule.step(torch.tensor(t)))),
        noise,
        schedule.times(steps, 9),
        schedule,
        prediction_of(config),
        lambda done, total: None,
    )
    scale = float(expected.abs().max())
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-4, rtol=0)


def test_unknown_schedules_are_refused() -> None:
    with pytest.raises(ModelError, match="beta_schedule 'squaredcos_cap_v2'; known are scaled_linear"):
        NoiseSchedule.from_config({**SD15, "beta_schedule": "squaredcos_cap_v2"})
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}
    with pytest.raises(ModelError, match="config of the FlowMatchEulerDiscreteScheduler has no 'beta_sch"):
        NoiseSchedule.from_config(flow)
    with pytest.raises(ModelError, match="prediction_type 'sample'; known are epsilon, v_prediction"):
        prediction_of({"prediction_type": "sample"})
