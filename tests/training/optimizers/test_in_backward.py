"""Updates within the backward pass: the same numbers, fewer gradients at a time."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from velatura.errors import RecipeError
from velatura.recipe.training.optimizer import BUILT_IN, Optimizer
from velatura.training.learning_rate import set_learning_rate
from velatura.training.optimizer import make_optimizer
from velatura.training.optimizers.in_backward import GradientNotFinite, InBackward, in_backward


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(72, 72), nn.GELU()) for _ in range(3)]
    return nn.Sequential(*layers).to(dtype)


def run(kind: str, dtype: torch.dtype, *, fused: bool) -> tuple[nn.Sequential, list[float]]:
    """Six steps at a falling rate; the norms of their gradients."""
    section = Optimizer(kind=kind, learning_rate=0.01, clip=0, fused_backward=fused)
    made = network(dtype)
    parameters = dict(made.named_parameters())
    optimizer = make_optimizer(section, parameters, seed=2)
    norms = []
    for step in range(6):
        set_learning_rate(optimizer, 0.01 / (step + 1))
        inputs = torch.randn(5, 72, generator=torch.Generator().manual_seed(step)).to(dtype)
        made(inputs).square().mean().backward()
        if (within := in_backward(optimizer)) is not None:
            assert all(parameter.grad is None for parameter in parameters.values())
            norms.append(within.take_norm())
        else:
            norms.append(float(nn.utils.clip_grad_norm_(parameters.values(), math.inf)))
            optimizer.step()
            optimizer.zero_grad()
    return made, norms


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", BUILT_IN)
def test_the_same_as_after_the_backward_pass(kind: str, dtype: torch.dtype) -> None:
    if kind == "muon" and dtype == torch.bfloat16:
        pytest.skip("muon trains float32 weights")
    (plain, norms), (fused, found) = (run(kind, dtype, fused=fused) for fused in (False, True))
    assert all(
        torch.equal(one, other) for one, other in zip(plain.parameters(), fused.parameters(), strict=True)
    )
    assert found == pytest.approx(norms, rel=1e-5 if dtype == torch.float32 else 1e-2)


def test_one_gradient_at_a_time() -> None:
    made = network()
    parameters = dict(made.named_parameters())
    held: list[int] = []

    def count(_: Any) -> None:
        held.append(sum(parameter.grad is not None for parameter in parameters.values()))

    for parameter in parameters.values():
        parameter.register_post_accumulate_grad_hook(count)  # before the optimizer's own
    optimizer = make_optimizer(Optimizer(fused_backward=True), parameters)
    made(torch.randn(2, 72)).sum().backward()
    assert held == [1] * 6
    assert optimizer.state


def test_a_gradient_that_is_not_finite_stops_before_its_update() -> None:
    made = network()
    parameters = dict(made.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = make_optimizer(Optimizer(fused_backward=True), parameters)
    parameters["1.0.weight"].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(GradientNotFinite) as caught:
        made(torch.randn(2, 72)).sum().backward()
    assert caught.value.name == "1.0.weight"
    changed = {name for name, parameter in parameters.items() if not torch.equal(parameter, before[name])}
    assert "1.0.weight" not in changed
    assert "2.0.weight" in changed
    assert caught.value.updated == len(changed)
    assert not optimizer.state[parameters["1.0.weight"]]


def test_a_second_gradient_in_a_step_is_refused() -> None:
    made = network()
    optimizer = make_optimizer(Optimizer(fused_backward=True), dict(made.named_parameters()))
    made(torch.randn(2, 72)).sum().backward()
    with pytest.raises(RecipeError, match="2.0.bias got a second gradient in a step"):
        made(torch.randn(2, 72)).sum().backward()
    assert isinstance(optimizer, InBackward)


def test_nothing_is_kept_alive() -> None:
    """Hooks lie where the garbage collector does not look."""
    made = network()
    optimizer = make_optimizer(Optimizer(fused_backward=True), dict(made.named_parameters()))
    weights = weakref.ref(made[0])
    del made, optimizer
    gc.collect()
    assert weights() is None


def test_the_state_is_one() -> None:
    """What the single optimizers hold is what the whole one shows, for saving and for counting memory."""
    parameters = dict(network().named_parameters())
    optimizer = make_optimizer(Optimizer(fused_backward=True), parameters)
    assert isinstance(optimizer, InBackward)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(set(optimizer.state[p]) == {"step", "exp_avg", "exp_avg_sq"} for p in parameters.values())
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in parameters.values()}
