"""Small tensors updated as one: the same bits as one after the other, in few updates."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from velatura.placement.compiling import compiled_update
from velatura.recipe.training.optimizer import Optimizer
from velatura.training.optimizer import make_optimizer
from velatura.training.optimizers import by_tensor, together

# two LoRAs' matrices, vectors, what is too large, and two of no whole blocks of 256
SHAPES = [(16, 256), (256, 16), (4, 640), (640, 4), (512,), (256,), (1024, 64), (30, 7), (5,)] * 2


class Made:
    """The updates that were made, by the values of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        own = by_tensor.move

        def move(rule: Any, weight: torch.Tensor, *rest: Any) -> None:
            self.sizes.append(weight.numel())
            own(rule, weight, *rest)

        monkeypatch.setattr(by_tensor, "move", move)


def weights(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    drawn = [0.02 * torch.randn(shape, generator=generator) for shape in SHAPES]
    return {f"{number}": nn.Parameter(values.to(dtype)) for number, values in enumerate(drawn)}


def stepped(
    kind: str,
    dtype: torch.dtype,
    without: int = 0,
    compiled: Callable[[by_tensor.Move], by_tensor.Move] | None = None,
) -> tuple[dict[str, nn.Parameter], list[Any]]:
    """After four steps; in the first, so many tensors got no gradient."""
    parameters = weights(dtype)
    section = Optimizer(kind=kind, learning_rate=1e-3, weight_decay=0.1)
    optimizer = make_optimizer(section, parameters, seed=1, compiled=compiled)
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        for number, parameter in enumerate(parameters.values()):
            gradient = torch.randn(parameter.shape, generator=generator).to(dtype)
            parameter.grad = None if step == 0 and number < without else gradient
        optimizer.step()
    return parameters, [optimizer.state[parameter] for parameter in parameters.values()]


@pytest.mark.parametrize("without", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_as_one_is_as_one_after_the_other(
    kind: str, dtype: torch.dtype, without: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, averages too; also where some tensors had fewer updates than others."""
    if kind == "adamw" and dtype == torch.float32:
        pytest.skip("torch has a kernel for it")
    _same_alone(monkeypatch, kind, dtype, without)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch's CPU code needs one")
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("adamw", torch.bfloat16), ("adamw8bit", torch.float32), ("adamw8bit", torch.bfloat16)],
)
def test_compiled_too(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where averages are offloaded, which takes tensors one by one."""
    torch._dynamo.reset()
    _same_alone(monkeypatch, kind, dtype, 0, partial(compiled_update, tell=pytest.fail))


def _same_alone(monkeypatch: pytest.MonkeyPatch, *given: Any) -> None:
    found, states = stepped(*given)
    monkeypatch.setattr(together, "LARGE", 0)
    alone, states_alone = stepped(*given)
    for name, weight in found.items():
        assert torch.equal(weight, alone[name]), name
    for state, of_alone in zip(states, states_alone, strict=True):
        assert state.keys() == of_alone.keys()
        assert all(torch.equal(torch.as_tensor(state[key]), torch.as_tensor(of_alone[key])) for key in state)


def test_small_tensors_take_few_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with averages in 8 bits are apart from those without; what is large or of no whole blocks is alone."""
    made = Made(monkeypatch)
    stepped("adamw8bit", torch.float32)
    eight_bits, float32 = 2 * (16 * 256 + 256 * 16), 2 * (4 * 640 + 640 * 4)
    vectors = 2 * (512 + 256)  # a group of its own: no weight decay
    expected = [eight_bits, float32, vectors, 65536, 65536, 210, 210, 5, 5]
    assert sorted(made.sizes) == sorted(expected * 4)


def test_no_update_is_larger_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "TOGETHER", 10_000)
    made = Made(monkeypatch)
    stepped("adamw8bit", torch.float32)
    joined = [size for size in made.sizes if size != 65536]
    assert max(joined) == 2 * 4096
    assert sum(made.sizes) == 4 * sum(parameter.numel() for parameter in weights(torch.float32).values())


def test_adafactor_takes_each_tensor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its averages are of rows and columns."""
    made = Made(monkeypatch)
    stepped("adafactor", torch.float32)
    assert len(made.sizes) == 4 * len(SHAPES)
