"""The learning rate by hand."""

from __future__ import annotations

from typing import Any

import pytest

from velatura.recipe.training.optimizer import Optimizer
from velatura.training.learning_rate import learning_rate


def rates(steps: int, **options: Any) -> list[float]:
    section = Optimizer(learning_rate=8.0, **options)
    return [learning_rate(section, step, steps) for step in range(1, steps + 1)]


def test_constant() -> None:
    assert rates(4, schedule="constant") == [8, 8, 8, 8]


def test_warm_up_is_a_straight_line_to_the_peak() -> None:
    assert rates(6, schedule="constant", warmup_steps=4) == [2, 4, 6, 8, 8, 8]


def test_cosine_is_half_a_wave() -> None:
    """Step k of 4 has the share (1 + cos(pi (k - 1) / 4)) / 2."""
    half = 2**0.5 / 2
    expected = [8, 4 * (1 + half), 4, 4 * (1 - half)]
    assert rates(4, schedule="cosine") == pytest.approx(expected)


def test_cosine_begins_after_the_warm_up_and_ends_near_its_least_share() -> None:
    """Two steps up to 8; then four from 8 towards 8 * 0.25 = 2, half of the way being 5."""
    found = rates(6, schedule="cosine", warmup_steps=2, min_share=0.25)
    half = 2**0.5 / 2
    assert found == pytest.approx([4, 8, 8, 5 + 3 * half, 5, 5 - 3 * half])


def test_a_warm_up_longer_than_the_run() -> None:
    assert rates(2, warmup_steps=4) == [2, 4]


def test_a_straight_line() -> None:
    """After one step of warm-up four from 8 towards 2."""
    assert rates(5, schedule="linear", warmup_steps=1, min_share=0.25) == pytest.approx([8, 8, 6.5, 5, 3.5])


def test_restarts_begin_at_the_peak_again() -> None:
    """Two cycles of two steps each: 1 and (1 + cos(pi / 2)) / 2."""
    assert rates(4, schedule="cosine_with_restarts", cycles=2) == pytest.approx([8, 4, 8, 4])
    assert rates(5, schedule="cosine_with_restarts") == pytest.approx(rates(5, schedule="cosine"))


def test_a_power_of_what_is_left() -> None:
    assert rates(4, schedule="polynomial", power=2.0) == pytest.approx([8, 4.5, 2, 0.5])
    assert rates(4, schedule="polynomial") == pytest.approx(rates(4, schedule="linear"))
