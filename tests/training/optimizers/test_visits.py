"""Averages that are on the host between updates: the same numbers, and the device holds those of two weights."""

from __future__ import annotations

import math

import pytest
import torch
from tests.placement.simulated import SimulatedLink
from torch import Tensor, nn

from velatura.recipe.capabilities import OFFLOADED
from velatura.recipe.training.optimizer import Optimizer
from velatura.training.optimizer import make_optimizer
from velatura.training.optimizers import visits as module
from velatura.training.optimizers.apart import Apart
from velatura.training.optimizers.in_backward import in_backward
from velatura.training.optimizers.saving import optimizer_tensors, set_optimizer_tensors
from velatura.training.optimizers.visits import Visits

CPU = torch.device("cpu")
BYTES = 72 * 72 * 4


@pytest.fixture(autouse=True)
def all_but_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 1024)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(72, 72), nn.GELU()) for _ in range(3))).to(dtype)


def step(made: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    inputs = torch.randn(5, 72, generator=torch.Generator().manual_seed(number))
    made(inputs.to(next(made.parameters()).dtype)).square().mean().backward()
    if (within := in_backward(optimizer)) is not None:
        within.take_norm()
    else:
        nn.utils.clip_grad_norm_(made.parameters(), 0.1)
        optimizer.step()
    optimizer.zero_grad()


def started(
    kind: str, dtype: torch.dtype, visits: Visits | None, *, fused: bool = False
) -> tuple[nn.Module, Apart]:
    made = network(dtype)
    section = Optimizer(kind=kind, learning_rate=0.01, clip=0, fused_backward=fused)
    return made, make_optimizer(section, dict(made.named_parameters()), seed=2, visits=visits)  # type: ignore[return-value]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", OFFLOADED)
def test_offloaded_is_resident_bit_for_bit(kind: str, dtype: torch.dtype, fused: bool) -> None:
    if kind == "muon" and dtype == torch.bfloat16:
        pytest.skip("muon trains float32 weights")
    plain, own = started(kind, dtype, None, fused=fused)
    away, offloaded = started(kind, dtype, Visits(CPU, SimulatedLink(1e6), states=True), fused=fused)
    for number in range(4):
        step(plain, own, number)
        step(away, offloaded, number)
        assert all(map(torch.equal, plain.parameters(), away.parameters()))
    expected = optimizer_tensors(own, dict(plain.named_parameters()))
    found = optimizer_tensors(offloaded, dict(away.named_parameters()))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", OFFLOADED)
@pytest.mark.parametrize("later", [False, True])
def test_stopped_and_resumed(kind: str, later: bool) -> None:
    """Also where it is offloaded only from then on: where averages lie is no part of a state."""
    straight, one = started(kind, torch.float32, Visits(CPU, SimulatedLink(1e6), states=True))
    first = None if later else Visits(CPU, SimulatedLink(1e6), states=True)
    stopped, two = started(kind, torch.float32, first)
    resumed, three = started(kind, torch.float32, Visits(CPU, SimulatedLink(1e6), states=True))
    for number in range(4):
        step(straight, one, number)
    for number in range(2):
        step(stopped, two, number)
    resumed.load_state_dict(stopped.state_dict())
    state = optimizer_tensors(two, dict(stopped.named_parameters()))
    set_optimizer_tensors(three, dict(resumed.named_parameters()), {k: v.clone() for k, v in state.items()})
    for number in range(2, 4):
        step(resumed, three, number)
    assert all(map(torch.equal, straight.parameters(), resumed.parameters()))


def test_large_averages_are_on_the_host_and_small_ones_are_not() -> None:
    visits = Visits(CPU, SimulatedLink(1e6), states=True)
    made, optimizer = started("adamw", torch.float32, visits)
    step(made, optimizer, 0)
    matrix, vector = (optimizer.state[parameter] for parameter in list(made.parameters())[:2])
    homes = matrix["exp_avg"].data_ptr(), vector["exp_avg"].data_ptr()
    step(made, optimizer, 1)
    assert (matrix["exp_avg"].data_ptr(), vector["exp_avg"].data_ptr()) == homes
    assert visits._homes[next(iter(made.parameters()))].keys() == {"exp_avg", "exp_avg_sq"}
    assert not visits._homes[list(made.parameters())[1]]
    assert not visits._coming


@pytest.mark.parametrize("fused", [False, True])
def test_the_next_averages_come_while_this_update_is_computed(fused: bool) -> None:
    """Copies of 0.2 s (of two averages 0.4 s) beside updates of 1 s: those of the first weight alone are waited for.

    Within the backward pass the order is known from the second step on.
    """
    link = SimulatedLink(bandwidth=BYTES / 0.2)
    made, optimizer = started("adamw", torch.float32, Visits(CPU, link, states=True), fused=fused)
    for parameter, one in optimizer._alone.items():
        if parameter.ndim == 2:
            one.register_step_pre_hook(lambda *_: link.compute(1.0))
    step(made, optimizer, 0)
    step(made, optimizer, 1)
    before, waited = link.computed, link.stalled
    step(made, optimizer, 2)
    ends = 0.4  # the last averages are on their way back when all else is done
    assert link.stalled - waited == pytest.approx(0.4 + ends)
    assert link.computed - before == pytest.approx(3 + 0.4 + ends)


def test_weights_that_are_not_finite_are_seen() -> None:
    made, optimizer = started("adamw", torch.float32, Visits(CPU, SimulatedLink(1e6), states=True))
    step(made, optimizer, 0)
    assert optimizer.take_finite()
    weight: Tensor = made[1][0].weight  # type: ignore[index, assignment]
    with torch.no_grad():
        weight[0, 0] = math.nan
    for parameter in made.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert not optimizer.take_finite()
    assert optimizer.take_finite()  # of what was updated since
