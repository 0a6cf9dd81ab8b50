from __future__ import annotations

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
