"""Which values decay, and the first step by hand; stopping is in `optimizers/test_resuming.py`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from velatura.recipe.training.optimizer import Optimizer
from velatura.training.learning_rate import set_learning_rate
from velatura.training.optimizer import make_optimizer


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
