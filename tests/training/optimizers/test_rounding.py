"""Rounding to bf16 at random: unbiased, and equal wherever it is made."""

from __future__ import annotations

import pytest
import torch

from velatura.training.optimizers.rounding import noise_for, rounded


def test_the_mean_of_many_roundings_is_the_value() -> None:
    """A value a share f above a bf16 goes up with probability f: its mean over n is within 4 sqrt(f (1 - f) / n)."""
    step = 2.0**-7  # between bf16 numbers in [1, 2)
    shares = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.9])
    values = torch.cat([1 + step * shares, -(1 + step * shares)])
    count = 4000
    many = values.repeat(count, 1)
    found = rounded(many, noise_for(many, 0, "rounding/1/x")).float()
    ups = ((found.abs() - 1) / step).mean(0)
    spread = (shares * (1 - shares) / count).sqrt().repeat(2)
    assert bool(((ups - shares.repeat(2)).abs() <= 4 * spread + 1e-6).all())
    assert set(((found.abs() - 1) / step).unique().tolist()) == {0.0, 1.0}


def test_what_bf16_can_hold_stays() -> None:
    values = torch.randn(1000).to(torch.bfloat16).float()
    assert torch.equal(rounded(values, noise_for(values, 0, "a")).float(), values)


def test_what_is_not_finite_stays_so() -> None:
    """0x7fffffff is the nan that CUDA makes: a carry would turn it into -0."""
    odd = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    values = torch.cat([odd, torch.tensor([torch.inf, -torch.inf])])
    found = rounded(values, noise_for(values, 0, "a"))
    assert found.isnan().tolist() == [True, True, False, False]
    assert found[2:].tolist() == [torch.inf, -torch.inf]


@pytest.mark.parametrize("other", [(1, "a"), (0, "b")])
def test_seed_and_name_choose_the_draws(other: tuple[int, str]) -> None:
    values = torch.randn(1000)
    first = rounded(values, noise_for(values, 0, "a"))
    assert torch.equal(first, rounded(values, noise_for(values, 0, "a")))
    assert not torch.equal(first, rounded(values, noise_for(values, *other)))
