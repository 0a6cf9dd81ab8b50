from __future__ import annotations

import pytest
import torch
from torch import nn

from velatura.placement.compiling import decide, training_flops
from velatura.placement.recompute import recompute


class Counting(nn.Module):
    """y = tanh(w x), counting its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.5, -1.5]))
        self.calls = 0

    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        self.calls += 1
        return torch.tanh(self.w * x * scale)


def test_blocks_are_run_again_for_their_backward_and_give_the_same() -> None:
    plain, again = Counting(), Counting()
    recompute([again])
    x = torch.tensor([0.3, 0.7])
    for block in (plain, again):
        block(x, scale=2.0).sum().backward()
    assert (plain.calls, again.calls) == (1, 2)
    assert plain.w.grad is not None
    assert again.w.grad is not None
    assert torch.equal(plain.w.grad, again.w.grad)


def test_without_gradients_nothing_is_run_twice() -> None:
    block = Counting()
    recompute([block])
    with torch.no_grad():
        block(torch.ones(2))
    assert block.calls == 1


def test_activations_are_not_kept() -> None:
    """Between forward and backward only the block's input is alive."""
    kept: list[int] = []
    block = Counting()
    recompute([block])

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    x = torch.ones(2, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block(x)
    assert sum(kept) <= x.numel()


def test_flops_by_hand() -> None:
    """6 per weight and token: 2 forward, 4 backward; biases do not count."""
    blocks = [nn.Linear(8, 16), nn.Linear(16, 8)]
    assert training_flops(blocks, tokens=10, images=3) == 6 * 2 * 128 * 10 * 3


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_compiling_is_for_long_runs(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++")
    at = torch.device(device)
    assert not decide("auto", flops=1e12, device=at)
    assert decide("auto", flops=1e19, device=at)
    assert decide(True, flops=0, device=at)
    assert not decide(False, flops=1e19, device=at)


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not decide("auto", flops=1e19, device=torch.device("cpu"))
