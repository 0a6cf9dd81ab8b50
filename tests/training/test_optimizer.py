"""The learning rate by hand, and which values decay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from velatura.recipe.training.optimizer import Optimizer
from velatura.training.optimizer import learning_rate, make_optimizer, set_learning_rate


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


def test_vectors_do_not_decay() -> None:
    """Without gradients in play, a step of AdamW multiplies what decays by 1 - rate * decay."""
    parameters = {
        "matrix": nn.Parameter(torch.ones(2, 2)),
        "kernel": nn.Parameter(torch.ones(2, 2, 3, 3)),
        "bias": nn.Parameter(torch.ones(2)),
    }
    optimizer = make_optimizer(Optimizer(learning_rate=0.1, weight_decay=0.5), parameters)
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    values = {name: parameter.flatten()[0].item() for name, parameter in parameters.items()}
    assert values == pytest.approx({"matrix": 0.95, "kernel": 0.95, "bias": 1.0})


def test_first_step_is_the_sign_of_the_gradient() -> None:
    """AdamW's bias correction makes the first update rate * g / (|g| + eps)."""
    parameters = {"x": nn.Parameter(torch.tensor([1.0, 2.0]))}
    optimizer = make_optimizer(Optimizer(weight_decay=0.0, eps=1e-2), parameters)
    set_learning_rate(optimizer, 0.1)
    parameters["x"].grad = torch.tensor([0.03, -0.5])
    optimizer.step()
    expected = [1 - 0.1 * 0.03 / 0.04, 2 + 0.1 * 0.5 / 0.51]
    assert parameters["x"].tolist() == pytest.approx(expected, rel=1e-5)


def test_only_vectors_or_only_matrices_are_fine() -> None:
    for shape in ((3,), (3, 3)):
        assert len(make_optimizer(Optimizer(), {"x": nn.Parameter(torch.ones(shape))}).param_groups) == 1
