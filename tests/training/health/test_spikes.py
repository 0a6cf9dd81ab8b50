"""Losses that jump are told apart from losses that are large because of their noise level."""

from __future__ import annotations

import math
import random

import pytest

from velatura.training.health.item_losses import ItemLoss
from velatura.training.health.spikes import ENOUGH, QUIET, SpikeWatch


def usual(number: int, factor: float = 1.0) -> ItemLoss:
    """Losses that rise with t over a factor of about 150, and vary by 35 % at each."""
    draw = random.Random(number)
    t = draw.random()
    return ItemLoss(name=f"{number}.png", value=factor * math.exp(5 * t + draw.gauss(0, 0.3)), t=t)


def watched(count: int) -> SpikeWatch:
    watch = SpikeWatch()
    assert [watch.look([usual(number)], number) for number in range(count)] == [None] * count
    return watch


@pytest.mark.parametrize("factor", [20.0, 1e6])
def test_a_jump_is_told_with_item_and_noise_level(factor: float) -> None:
    watch, odd = watched(1000), usual(1000, factor)
    warning = watch.look([usual(1001), odd, usual(1002)], 1000)
    assert warning is not None
    assert f"for {odd.name} (t = {odd.t:.3g})." in warning
    assert "1001.png" not in warning
    assert warning.startswith("step 1000: the loss jumped, to ")


def test_what_is_usual_at_another_noise_level_is_a_jump() -> None:
    """At t = 1 a loss of 100 is usual, at t = 0.05 it is not."""
    watch = watched(1000)
    assert watch.look([ItemLoss(name="a.png", value=100.0, t=0.95)], 1000) is None
    assert "to 7" in (watch.look([ItemLoss(name="a.png", value=100.0, t=0.05)], 1001) or "")


def test_a_loss_that_is_low_is_none() -> None:
    assert watched(1000).look([usual(1000, 1e-6)], 1000) is None


def test_not_every_jump_is_told() -> None:
    watch = watched(1000)
    told = [step for step in range(1000, 1000 + 3 * QUIET, 10) if watch.look([usual(step, 1e3)], step)]
    assert told == [1000, 1000 + QUIET, 1000 + 2 * QUIET]


def test_nothing_is_said_before_enough_is_known() -> None:
    watch = SpikeWatch()
    for number in range(ENOUGH):
        assert (
            watch.look([ItemLoss(name="a", value=1e9 if number == ENOUGH - 1 else 1.0, t=None)], number)
            is None
        )
    assert watch.look([ItemLoss(name="a", value=1e9, t=None)], ENOUGH)


def test_empty_masks_are_no_measure() -> None:
    watch = watched(1000)
    for number in range(500):
        assert watch.look([ItemLoss(name="empty", value=0.0, t=number / 500)], number) is None
    assert watch.look([usual(1001)], 1001) is None
