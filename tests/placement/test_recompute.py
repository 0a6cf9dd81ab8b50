from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import load
from torch import Tensor, nn

from velatura.interfaces import Prompt
from velatura.placement.compiling import decide, decide_updates, training_flops
from velatura.placement.recompute import Policy, recompute


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


def test_autocast_keeps_no_copies_of_weights_that_are_run_again() -> None:
    """Its cache would hold those of all blocks until the pass is over."""
    block = nn.Linear(4, 4)
    seen: list[bool] = []
    block.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_cache_enabled()))
    recompute([outer := nn.Sequential(block)])
    with torch.autocast("cpu", torch.bfloat16):
        out = outer(torch.ones(2, 4))
        assert torch.is_autocast_cache_enabled()
    out.float().sum().backward()
    assert seen == [False, False]


@pytest.mark.parametrize(
    ("policy", "calls"), [(False, [1, 1, 1, 1]), (True, [2, 2, 2, 2]), (2, [2, 1, 2, 1]), (3, [2, 1, 1, 2])]
)
def test_how_many_blocks_are_run_again(policy: bool | int, calls: list[int]) -> None:
    blocks = [Counting() for _ in range(4)]
    recompute(blocks, policy)
    x = torch.ones(2, requires_grad=True)
    for block in blocks:
        x = block(x)
    x.sum().backward()
    assert [block.calls for block in blocks] == calls


@pytest.mark.parametrize("policy", [True, 2, "mlp"])
def test_every_policy_keeps_less_and_gives_the_same(tiny_model: Path, policy: Policy) -> None:
    """On FLUX: bytes that autograd holds between forward and backward, and all gradients."""
    kept: list[int] = []
    gradients: list[list[Tensor]] = []
    for chosen in (False, policy):
        family, parts = load(tiny_model)
        assert parts.denoiser is not None
        recompute(family.blocks(parts.denoiser), chosen, family.feed_forwards(parts.denoiser))
        held: dict[int, int] = {}

        def pack(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        prompts = [Prompt(text="a red cube")]
        parts.denoiser.requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            latents = torch.linspace(-1, 1, 16 * 64).reshape(1, 16, 8, 8)
            out = family.predict(parts, latents, torch.tensor([0.5]), family.encode(parts, prompts))
        for weight in parts.denoiser.parameters():
            held.pop(weight.untyped_storage().data_ptr(), None)
        out.square().sum().backward()
        kept.append(sum(held.values()))
        gradients.append([weight.grad for weight in parts.denoiser.parameters() if weight.grad is not None])
    assert kept[1] < 0.8 * kept[0]
    assert len(gradients[0]) > 30
    assert all(map(torch.equal, *gradients))


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


def test_updates_are_compiled_where_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++")
    cpu = torch.device("cpu")
    assert decide_updates("auto", values=10**9, steps=100, device=cpu)
    assert not decide_updates("auto", values=10**6, steps=100, device=cpu)
    assert not decide_updates("auto", values=10**9, steps=100, device=torch.device("mps"))
    assert decide_updates(True, values=1, steps=1, device=cpu)
    assert not decide_updates(False, values=10**9, steps=10**6, device=cpu)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not decide_updates("auto", values=10**9, steps=100, device=cpu)


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not decide("auto", flops=1e19, device=torch.device("cpu"))


def test_without_gradients_what_is_recomputed_keeps_no_copies_of_its_weights() -> None:
    """Autocast's: else painting and validating would hold them of all blocks, and training of none."""
    kept, again = nn.Linear(4, 4), nn.Linear(4, 4)
    recompute([again])
    x, changed = torch.ones(1, 4), {}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for name, layer in (("kept", kept), ("again", again)):
            before = layer(x)
            layer.weight.mul_(3)
            layer.bias.mul_(3)
            changed[name] = not torch.equal(layer(x), before)
    assert changed == {"kept": False, "again": True}
