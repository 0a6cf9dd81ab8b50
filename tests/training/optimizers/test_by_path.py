"""Optimizers of other packages: found, tried out, and what is said where they cannot be used."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from velatura.errors import RecipeError
from velatura.recipe.training.optimizer import Optimizer
from velatura.training.optimizers.by_path import (
    bytes_per_value,
    make_by_path,
    optimizer_class,
    try_out,
    usable_weights,
)

CPU = torch.device("cpu")


class Forgetful(torch.optim.SGD):
    """Keeps a number where no state can find it."""

    count = 0

    def step(self, closure: Any = None) -> None:
        self.count += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad, alpha=-0.1 * self.count)


class Hoarding(torch.optim.SGD):
    """Keeps a list of tensors."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter].setdefault("history", []).append(parameter.grad)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("odd_optimizers")
    module.Forgetful, module.Hoarding, module.number = Forgetful, Hoarding, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "odd_optimizers", module)
    return "odd_optimizers"


@pytest.mark.parametrize("kind", ["torch.optim.SGD", "torch.optim:SGD"])
def test_a_class_is_found_either_way(kind: str) -> None:
    assert optimizer_class(kind) is torch.optim.SGD


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "no_such_package.Best",
            "the package no_such_package is not installed here; pip install no_such_package",
        ),
        ("torch.nowhere.Best", "torch.nowhere cannot be imported"),
        ("torch.optim.Best", "torch.optim has no Best; it has Ada"),
        ("odd_optimizers:number", "has number, which is no class of optimizers; it has Forgetful, Hoarding"),
    ],
)
def test_a_class_that_is_not_there(package: str, kind: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        optimizer_class(kind)
    assert f'optimizer.kind = "{kind}"' in str(caught.value)
    assert said in str(caught.value)


def test_options_are_passed_on_and_vectors_get_no_decay() -> None:
    parameters = {"w": nn.Parameter(torch.ones(2, 2)), "b": nn.Parameter(torch.ones(2))}
    section = Optimizer(
        kind="torch.optim.AdamW", learning_rate=0.5, options={"betas": [0.5, 0.6], "weight_decay": 0.25}
    )
    matrices, vectors = make_by_path(section, parameters).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.25, 0.0)
    assert {group["betas"] for group in (matrices, vectors)} == {(0.5, 0.6)}
    assert {group["lr"] for group in (matrices, vectors)} == {0.5}


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("torch.optim.SGD", {"momentun": 0.9}, "[optimizer.options] does not fit (TypeError"),
        ("torch.optim.SGD", {"momentum": -1.0}, "Invalid momentum value"),
        ("torch.optim.LBFGS", {}, "closure"),
        ("odd_optimizers.Hoarding", {}, "'history' is list, and only tensors and numbers can be saved"),
    ],
)
def test_what_cannot_be_used_is_told(package: str, kind: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        try_out(Optimizer(kind=kind, options=options), CPU)
    assert said in str(caught.value)


def test_whether_it_can_go_on_exactly(package: str) -> None:
    assert try_out(Optimizer(kind="torch.optim.Adam"), CPU)
    assert not try_out(Optimizer(kind="odd_optimizers.Forgetful"), CPU)


@pytest.mark.parametrize(("kind", "expected"), [("torch.optim.Adam", 8), ("torch.optim.SGD", 0)])
def test_bytes_per_value(kind: str, expected: int) -> None:
    assert bytes_per_value(Optimizer(kind=kind)) == expected


def test_schedule_free_weights_are_averages_for_a_while() -> None:
    """With plain SGD steps z the weights to be used are the mean of all z; those that are trained come back exactly."""
    pytest.importorskip("schedulefree")
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    section = Optimizer(kind="schedulefree.SGDScheduleFree", learning_rate=0.1, options={"momentum": 0.9})
    optimizer = make_by_path(section, {"w": weight})
    z, mean = weight.detach().clone(), torch.zeros(2)
    for count in range(1, 4):
        weight.grad = torch.tensor([1.0, -float(count)])
        optimizer.step()
        z -= 0.1 * torch.tensor([1.0, -float(count)])
        mean += (z - mean) / count
    trained = weight.detach().clone()
    with usable_weights(optimizer):
        assert torch.allclose(weight, mean, atol=1e-6)
    assert torch.equal(weight, trained)
    assert not torch.allclose(weight, mean, atol=1e-3)


def test_other_optimizers_train_what_is_used() -> None:
    weight = nn.Parameter(torch.ones(2))
    with usable_weights(make_by_path(Optimizer(kind="torch.optim.SGD"), {"w": weight})):
        assert weight.tolist() == [1, 1]
