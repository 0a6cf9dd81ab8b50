"""adamw, adamw8bit and adafactor, tensor by tensor: beside torch's own, and with weights in bf16."""

from __future__ import annotations

import shutil
from functools import partial

import pytest
import torch
from torch import nn

from velatura.placement.compiling import compiled_update
from velatura.recipe.training.optimizer import Optimizer
from velatura.training.optimizer import make_optimizer, updated_by_tensor
from velatura.training.optimizers.in_backward import in_backward

KINDS = ["adamw", "adamw8bit", "adafactor"]


def gradients(shape: tuple[int, ...], count: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    slope = torch.randn(shape, generator=generator)
    return [(slope + torch.randn(shape, generator=generator)).to(dtype) for _ in range(count)]


def trained(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, steps: list[torch.Tensor]
) -> torch.Tensor:
    for gradient in steps:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach().float()


def start(shape: tuple[int, ...] = (96, 80), dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))


def test_eight_bits_follow_adamw() -> None:
    """After 60 steps of 1e-3 the weights have come 0.03 far; those with 8-bit averages are within a few percent of it."""
    section = Optimizer(learning_rate=1e-3, weight_decay=0.1)
    steps = gradients((96, 80), 60)
    ways = {}
    for kind in ("adamw", "adamw8bit"):
        parameter = start()
        optimizer = make_optimizer(section.model_copy(update={"kind": kind}), {"w": parameter})
        ways[kind] = trained(optimizer, parameter, steps) - start().detach()
    error = (ways["adamw8bit"] - ways["adamw"]).norm() / ways["adamw"].norm()
    assert 1e-6 < float(error) < 0.03
    assert float((ways["adamw8bit"] - ways["adamw"]).abs().max()) < 0.01


def test_rare_gradients_do_not_blow_up_in_eight_bits() -> None:
    """One value has gradients 1e-4 of its neighbours': in 8 bits its second moment, 1e-8 of theirs, would be zero."""
    parameter = nn.Parameter(torch.zeros(64, 64))
    optimizer = make_optimizer(
        Optimizer(kind="adamw8bit", learning_rate=1e-3, weight_decay=0), {"w": parameter}
    )
    gradient = torch.ones(64, 64)
    gradient[0, 0] = 1e-4
    trained(optimizer, parameter, [gradient, torch.zeros(64, 64), torch.zeros(64, 64)])
    assert float(parameter.detach().abs().max()) < 4e-3  # three steps at full rate, at most


def test_small_tensors_keep_averages_in_float32() -> None:
    parameter = start((60, 60))
    optimizer = make_optimizer(Optimizer(kind="adamw8bit"), {"w": parameter})
    trained(optimizer, parameter, gradients((60, 60), 2))
    assert optimizer.state[parameter]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("shape", [(96, 80), (24, 7), (30,)])
def test_adafactor_beside_torch(shape: tuple[int, ...]) -> None:
    """Torch's multiplies the rate by the size of the weights, but at least by eps[1]: 1 here, with small weights."""
    steps = gradients(shape, 12)
    ours, theirs = start(shape), start(shape)
    section = Optimizer(kind="adafactor", learning_rate=1e-3, weight_decay=0 if len(shape) == 1 else 0.1)
    oracle = torch.optim.Adafactor([theirs], lr=1e-3, weight_decay=section.weight_decay, eps=(1e-15, 1.0))
    found = trained(make_optimizer(section, {"w": ours}), ours, steps)
    assert torch.allclose(found, trained(oracle, theirs, steps), atol=1e-6)


def test_adafactor_remembers_rows_and_columns() -> None:
    kernel = nn.Parameter(torch.randn(16, 8, 3, 3))
    optimizer = make_optimizer(Optimizer(kind="adafactor"), {"k": kernel})
    trained(optimizer, kernel, gradients((16, 8, 3, 3), 2))
    state = optimizer.state[kernel]
    assert (state["rows"].shape, state["columns"].shape) == ((16, 1), (1, 72))


@pytest.mark.parametrize("kind", KINDS)
def test_updates_that_bf16_cannot_tell_apart_are_not_lost(kind: str) -> None:
    """Next to 1, bf16 numbers are 2^-8 (downwards) apart; 100 steps of 1e-4, each 1/39 of that, come to 0.01."""
    parameter = nn.Parameter(torch.ones(128, 64, dtype=torch.bfloat16))
    section = Optimizer(kind=kind, learning_rate=1e-4, weight_decay=0)
    optimizer = make_optimizer(section, {"w": parameter}, seed=3)
    found = trained(optimizer, parameter, [torch.ones(128, 64, dtype=torch.bfloat16)] * 100)
    assert parameter.dtype == torch.bfloat16
    assert float(found.mean()) == pytest.approx(1 - 100 * 1e-4, rel=0, abs=3e-4)
    assert all(
        t.dtype != torch.bfloat16 for t in optimizer.state[parameter].values() if isinstance(t, torch.Tensor)
    )


def test_bf16_weights_are_those_of_float32_on_average() -> None:
    steps = gradients((96, 80), 30)
    wide, narrow = start(), start(dtype=torch.bfloat16)
    with torch.no_grad():
        wide.copy_(narrow)
    section = Optimizer(learning_rate=1e-3)
    expected = trained(make_optimizer(section, {"w": wide}), wide, steps)
    rounding = make_optimizer(section, {"w": narrow}, seed=1)
    found = trained(rounding, narrow, [gradient.to(torch.bfloat16) for gradient in steps])
    # bf16 numbers are 1.2e-4 apart at 0.02: 30 roundings deviate by at most 0.5 * 1.2e-4 * sqrt(30) = 3.3e-4, and the
    # mean of 7680 of them by 3.8e-6
    assert float((found - expected).mean().abs()) < 4 * 3.8e-6
    assert float((found - expected).abs().max()) < 4e-3  # a tenth of how far they came


def test_seeds_round_differently() -> None:
    found = []
    for seed in (0, 0, 1):
        parameter = start(dtype=torch.bfloat16)
        optimizer = make_optimizer(Optimizer(learning_rate=1e-5), {"w": parameter}, seed=seed)
        found.append(trained(optimizer, parameter, gradients((96, 80), 2, torch.bfloat16)))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


SHAPES = (
    (96, 80),
    (128, 40),
    (64, 16, 3, 3),
    (8192,),
    (100, 70),
    (300,),
)  # the last two are no whole blocks of 256


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch's CPU code needs one")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_updates_are_the_same_up_to_rounding(kind: str, dtype: torch.dtype, fused: bool) -> None:
    """Of tensors of many shapes, with one graph."""
    if kind == "adamw" and dtype == torch.float32:
        pytest.skip("torch has a kernel for it")
    section = Optimizer(kind=kind, learning_rate=1e-3, weight_decay=0.1, clip=0, fused_backward=fused)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    told: list[str] = []
    found = []
    for compiled in (None, partial(compiled_update, tell=told.append)):
        weights = {str(shape): start(shape, dtype) for shape in SHAPES}
        optimizer = make_optimizer(section, weights, seed=2, compiled=compiled)
        slopes = {name: gradients(weight.shape, 4, dtype) for name, weight in weights.items()}
        for step in range(4):
            sum((weight * slopes[name][step]).sum() for name, weight in weights.items()).backward()  # type: ignore[union-attr]
            if (within := in_backward(optimizer)) is not None:
                within.take_norm()
            optimizer.step()
            optimizer.zero_grad()
        found.append(weights)
    assert not told
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for name, plain in found[0].items():
        moved = (plain - start(plain.shape, dtype)).float().norm()
        off = (found[1][name] - plain).float().norm()
        assert off <= (1e-5 if kind != "adamw8bit" and dtype == torch.float32 else 0.02) * moved, name
        assert moved > 0


def test_what_torch_has_a_kernel_for_is_not_compiled() -> None:
    wide, narrow = ({"w": start(dtype=dtype)} for dtype in (torch.float32, torch.bfloat16))
    assert not updated_by_tensor(Optimizer(), wide)
    assert updated_by_tensor(Optimizer(), narrow)
    assert updated_by_tensor(Optimizer(kind="adamw8bit"), wide)
    assert not updated_by_tensor(Optimizer(kind="muon"), wide)
    assert not updated_by_tensor(Optimizer(kind="torch.optim.SGD"), wide)
