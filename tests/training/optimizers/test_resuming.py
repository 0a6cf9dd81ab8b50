"""Every optimizer that is offered, stopped and resumed: bit for bit the one that was never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from velatura.checkpoints.reader import TensorFile
from velatura.checkpoints.writing import write_safetensors
from velatura.recipe.training.optimizer import Optimizer
from velatura.training.learning_rate import learning_rate, set_learning_rate
from velatura.training.optimizer import make_optimizer
from velatura.training.optimizers.saving import Unstorable, optimizer_tensors, set_optimizer_tensors

STEPS = 6
BUILT_IN = ["adamw", "adamw8bit", "adafactor", "muon"]
FOREIGN: list[tuple[str, dict[str, Any]]] = [
    ("prodigyopt.Prodigy", {"weight_decay": 0.01, "use_bias_correction": True}),
    ("prodigyopt.Prodigy", {"slice_p": 11, "safeguard_warmup": True}),
    ("schedulefree.AdamWScheduleFree", {"warmup_steps": 3}),
    ("schedulefree.RAdamScheduleFree", {}),
    ("schedulefree.SGDScheduleFree", {}),
    ("torch.optim.SGD", {"momentum": 0.9, "nesterov": True}),
    ("torch.optim:Adafactor", {}),
    ("torch.optim.NAdam", {}),
    ("dadaptation.DAdaptAdam", {}),
    ("lion_pytorch.Lion", {}),
]
CASES = [
    *(pytest.param({"kind": kind}, torch.float32, id=kind) for kind in BUILT_IN),
    *(pytest.param({"kind": k}, torch.bfloat16, id=f"{k}, bf16") for k in BUILT_IN if k != "muon"),
    *(pytest.param({"kind": k, "fused_backward": True}, torch.float32, id=f"{k}, fused") for k in BUILT_IN),
    *(
        pytest.param({"kind": kind, "options": options}, torch.float32, id=f"{kind} {options}")
        for kind, options in FOREIGN
    ),
]


def fresh(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"blocks.0.w": (72, 64), "kernel.0.w": (8, 4, 3, 3), "bias": (3,)}
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for name, shape in shapes.items()
    }


def step(
    section: Optimizer, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], number: int
) -> None:
    set_learning_rate(optimizer, learning_rate(section, number + 1, STEPS))
    generator = torch.Generator().manual_seed(number)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    optimizer.step()


def through_a_file(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    write_safetensors(path, tensors, {})
    with TensorFile(path) as file:
        return {key: file.read(key) for key in file}


@pytest.mark.parametrize(("options", "dtype"), CASES)
def test_stopped_and_resumed_is_never_stopped(
    options: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    section = Optimizer(learning_rate=0.01, weight_decay=0.01, warmup_steps=1, **options)
    if section.by_path:
        pytest.importorskip(section.kind.replace(":", ".").rpartition(".")[0])
    straight, stopped, resumed = (fresh(dtype) for _ in range(3))
    one, two, three = (make_optimizer(section, p, seed=5) for p in (straight, stopped, resumed))
    for number in range(STEPS):
        step(section, one, straight, number)
    for number in range(2):
        step(section, two, stopped, number)
    state = optimizer_tensors(two, stopped, groups=section.by_path)
    for name, parameter in resumed.items():
        parameter.data.copy_(stopped[name].data)
    set_optimizer_tensors(three, resumed, through_a_file(state, tmp_path / "state.safetensors"))
    for number in range(2, STEPS):
        step(section, three, resumed, number)
    start = fresh(dtype)
    for name, parameter in straight.items():
        assert not torch.equal(parameter, start[name])
        assert torch.equal(resumed[name], parameter)
    ended = [optimizer_tensors(o, p, groups=section.by_path) for o, p in ((one, straight), (three, resumed))]
    assert ended[0].keys() == ended[1].keys()
    assert all(torch.equal(ended[0][key], ended[1][key]) for key in ended[0])


class Odd(torch.optim.SGD):
    """Keeps numbers of all types, in its state and in its groups."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["d"] = 0.1 + 1e-17j.real
            for parameter in group["params"]:
                self.state[parameter] |= {"count": 2**40, "share": 1 / 3, "done": True, "nothing": None}


def test_numbers_come_back_as_what_they_were() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    one, two = Odd([parameter], lr=0.1), Odd([parameter], lr=0.2)
    one.step()
    state = optimizer_tensors(one, {"x": parameter}, groups=True)
    assert sorted(state) == [
        "groups.0/d:float",
        "x/count:int",
        "x/done:bool",
        "x/nothing:none",
        "x/share:float",
    ]
    set_optimizer_tensors(two, {"x": parameter}, state)
    assert two.state[parameter] == {"count": 2**40, "share": 1 / 3, "done": True, "nothing": None}
    assert type(two.state[parameter]["done"]) is bool
    assert two.param_groups[0]["d"] == one.param_groups[0]["d"]
    assert two.param_groups[0]["lr"] == 0.2, "what the recipe says stays"


def test_what_cannot_be_saved_is_told() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter]["history"] = [torch.zeros(2)]
    with pytest.raises(Unstorable, match="'history' is list"):
        optimizer_tensors(optimizer, {"x": parameter})
