from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from velatura.families.flux import FlowSchedule
from velatura.families.noise_schedule import NoiseSchedule
from velatura.sampling.samplers import euler, guided, part_of, split


def quiet(done: int, total: int) -> None: ...


def test_a_straight_flow_arrives_whatever_the_steps() -> None:
    """With the true velocity noise - image, constant along a line, one step is as good as many."""
    image, noise = torch.randn(2, 1, 4, 2, 2).unbind()
    for times in (torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.7, 0.2, 0.0])):
        found = euler(lambda x, t: noise - image, noise, times, FlowSchedule(), "velocity", quiet)
        torch.testing.assert_close(found, image)


@pytest.mark.parametrize("kind", ["noise", "v"])
def test_a_perfect_prediction_arrives_on_the_schedule(kind: str) -> None:
    """A predictor that knows image and noise leaves alpha(0) image + sigma(0) noise, and `split` finds both."""
    schedule = NoiseSchedule(torch.linspace(0.999, 0.01, 1000))
    image, noise = torch.randn(2, 1, 4, 2, 2).unbind()

    def predict(latents: torch.Tensor, t: float) -> torch.Tensor:
        at = torch.tensor(t)
        v = schedule.alpha(at) * noise - schedule.sigma(at) * image
        return noise if kind == "noise" else v

    t = torch.tensor(0.6)
    noisy = schedule.alpha(t) * image + schedule.sigma(t) * noise
    found = split(predict(noisy, 0.6), noisy, schedule, t, kind)
    torch.testing.assert_close(found, (image, noise), atol=1e-5, rtol=1e-5)
    times = torch.tensor([0.6, 0.3, 0.0])
    last = euler(predict, noisy, times, schedule, kind, quiet)
    expected = 0.999**0.5 * image + 0.001**0.5 * noise
    torch.testing.assert_close(last, expected, atol=1e-5, rtol=1e-5)


def test_strength_keeps_the_end_of_the_schedule() -> None:
    times = torch.linspace(1, 0, 11)
    kept = {strength: len(part_of(times, strength)) - 1 for strength in (0.01, 0.3, 0.59, 0.7, 1.0)}
    assert kept == {0.01: 1, 0.3: 3, 0.59: 5, 0.7: 7, 1.0: 10}
    assert part_of(times, 0.3).tolist() == times[-4:].tolist()


def test_guidance_by_hand_and_progress() -> None:
    positive, negative = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])
    for scale, expected in ((0.0, [1.0, 2.0]), (1.0, [3.0, 1.0]), (2.5, [6.0, -0.5])):
        torch.testing.assert_close(guided(positive, negative, scale), torch.tensor(expected))
    seen: list[tuple[int, int]] = []
    latents, times = torch.zeros(1, 1, 1, 1), torch.linspace(1, 0, 4)
    euler(lambda x, t: x, latents, times, FlowSchedule(), "velocity", lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


class Gaussian:
    """Images that are normal with deviation S: the best prediction is a straight line through zero."""

    S = 2.0

    def noise(self, x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """E[noise | x] for x = alpha x0 + sigma noise."""
        return sigma / (alpha**2 * self.S**2 + sigma**2) * x

    def scale(self, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Deviation of x: what the probability flow stretches noise to, point by point."""
        return (alpha**2 * self.S**2 + sigma**2) ** 0.5


def test_euler_follows_the_velocity_field_of_a_gaussian() -> None:
    """E[noise - image | x] = (sigma - alpha S^2) / (alpha^2 S^2 + sigma^2) x, whose flow ends at S x.

    Each Euler step multiplies by 1 + h v(t): the product is exact; it nears S with the steps, first order.
    """
    schedule, x = FlowSchedule(), torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0)).double()

    def velocity(at: float) -> float:
        return (at - (1 - at) * 4.0) / ((1 - at) ** 2 * 4.0 + at**2)

    errors = []
    for steps in (16, 32, 64):
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        found = euler(lambda y, t: velocity(t) * y, x, times, schedule, "velocity", quiet)
        factor = 1.0
        for now, then in pairwise(times.tolist()):
            factor *= 1 + (then - now) * velocity(now)
        torch.testing.assert_close(found, factor * x, rtol=1e-6, atol=1e-6)
        errors.append(abs(factor - 2.0))
    assert errors[2] < 0.05
    assert 1.8 < errors[0] / errors[1] < 2.2  # halved with the step
    assert 1.8 < errors[1] / errors[2] < 2.2


@pytest.mark.parametrize("kind", ["noise", "v"])
def test_ddim_carries_a_gaussian_from_noise_to_its_deviation(kind: str) -> None:
    """The deviation of the result, of pure noise at first, is that of the images with the noise left at t = 0."""
    kept = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    schedule, images = NoiseSchedule(kept), Gaussian()
    x = torch.ones(1, 1, 1, 1)

    def predict(y: torch.Tensor, t: float) -> torch.Tensor:
        alpha, sigma = schedule.alpha(torch.tensor(t)), schedule.sigma(torch.tensor(t))
        noise = images.noise(y, alpha, sigma)
        return noise if kind == "noise" else alpha * noise - sigma * (y - sigma * noise) / alpha

    errors = []
    for steps in (10, 100, 500):
        times = schedule.times(steps, 0)
        start = images.scale(schedule.alpha(times[0]), schedule.sigma(times[0]))
        end = images.scale(schedule.alpha(times[-1]), schedule.sigma(times[-1]))
        found = euler(predict, start * x, times, schedule, kind, quiet)  # type: ignore[arg-type]
        errors.append(abs(float(found) / float(end) - 1))
    assert errors[1] < 0.02
    assert 8 < errors[0] / errors[1] < 12  # first order: ten times the steps, a tenth of the error
    assert 4 < errors[1] / errors[2] < 6


@pytest.mark.parametrize("steps", [4, 10, 20, 28, 30, 50])
def test_strength_keeps_the_steps_that_diffusers_keeps(steps: int) -> None:
    """As `StableDiffusionImg2ImgPipeline.get_timesteps` counts: int(steps * strength), of at least one step."""
    times = torch.linspace(1, 0, steps + 1)
    for tenths in range(1, 11):
        strength = tenths / 10
        begin = max(steps - min(steps * tenths // 10, steps), 0)
        expected = times[min(begin, steps - 1) :]
        assert torch.equal(part_of(times, strength), expected), strength


def test_strength_agrees_with_both_pipelines_of_diffusers_where_they_agree() -> None:
    from diffusers import FluxImg2ImgPipeline, StableDiffusionImg2ImgPipeline

    times = torch.linspace(1, 0, 21)
    for strength in (0.05, 0.25, 0.5, 0.6, 0.75, 0.9, 1.0):
        for pipeline in (StableDiffusionImg2ImgPipeline, FluxImg2ImgPipeline):
            scheduler = SimpleNamespace(timesteps=times[:-1], order=1)
            kept, count = pipeline.get_timesteps(
                SimpleNamespace(scheduler=scheduler), 20, strength, torch.device("cpu")
            )
            assert torch.equal(part_of(times, strength)[:-1], kept)
            assert len(part_of(times, strength)) - 1 == count
