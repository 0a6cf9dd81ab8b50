from __future__ import annotations

import pytest
import torch

from velatura.objectives.weighting import flow_weight, min_snr


def test_cosmap_has_the_values_of_sd_scripts() -> None:
    found = flow_weight(torch.tensor([0.1, 0.25, 0.5, 0.9]), "cosmap")
    expected = torch.tensor([0.776366, 1.018592, 1.273240, 0.776366])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_cosmap_averages_to_one() -> None:
    """It is a density on [0, 1]: 2 / pi times the integral of 1 / (1 - 2t + 2t^2), which is pi / 2."""
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert abs(float(flow_weight(t, "cosmap").mean()) - 1) < 1e-9


def test_sigma_sqrt_is_the_inverse_square_and_stays_finite() -> None:
    found = flow_weight(torch.tensor([0.0, 1e-3, 0.1, 0.5, 1.0]), "sigma_sqrt")
    torch.testing.assert_close(found, torch.tensor([1e6, 1e6, 100, 4, 1.0]))


def test_none_is_one() -> None:
    assert flow_weight(torch.tensor([0.1, 0.9]), "none").tolist() == [1, 1]


@pytest.mark.parametrize(
    ("snr", "noise", "v"),
    [
        (0.25, 1.0, 0.2),  # below gamma: 0.25 / 0.25, 0.25 / 1.25
        (5.0, 1.0, 5 / 6),
        (20.0, 0.25, 5 / 21),  # above it: 5 / 20, 5 / 21
    ],
)
def test_min_snr(snr: float, noise: float, v: float) -> None:
    """With gamma = 5; alpha^2 + sigma^2 = 1."""
    alpha, sigma = torch.tensor((snr / (1 + snr)) ** 0.5), torch.tensor((1 / (1 + snr)) ** 0.5)
    assert float(min_snr(alpha, sigma, 5.0, "noise")) == pytest.approx(noise, rel=1e-5)
    assert float(min_snr(alpha, sigma, 5.0, "v")) == pytest.approx(v, rel=1e-5)


def test_min_snr_at_the_end_of_a_schedule_without_signal() -> None:
    """alpha = 0: the limits for snr -> 0, 1 for noise and 0 for v, not 0 / 0."""
    alpha, sigma = torch.tensor(0.0), torch.tensor(1.0)
    assert float(min_snr(alpha, sigma, 5.0, "noise")) == 1
    assert float(min_snr(alpha, sigma, 5.0, "v")) == 0
