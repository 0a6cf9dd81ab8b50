"""Inputs of recomputed blocks on the host: the same gradients, copies beside the computation."""

from __future__ import annotations

import pytest
import torch
from tests.placement.simulated import SimulatedLink
from torch import Tensor, nn

from velatura.placement.recompute import recompute
from velatura.placement.streamed import activations as module
from velatura.placement.streamed.activations import Activations
from velatura.placement.streamed.packed import PackedBlock
from velatura.placement.streamed.streaming import stream

WIDTH = 8
DEPTH = 5
ROWS = 3
BYTES = ROWS * WIDTH * 4


@pytest.fixture(autouse=True)
def all_but_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", BYTES)


class Block(nn.Module):
    """A pass of it takes a second on the simulated clock."""

    def __init__(self, seed: int, link: SimulatedLink | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH, generator=generator) / 3)
        self.link = link

    def forward(self, x: Tensor, vector: Tensor, table: Tensor, *, factor: float) -> Tensor:
        if self.link is not None:
            self.link.compute(1.0)
        return x + torch.tanh(x * table @ self.weight + vector) * factor


def stack(link: SimulatedLink | None = None) -> nn.ModuleList:
    return nn.ModuleList(Block(seed, link) for seed in range(DEPTH))


def gradients(blocks: nn.ModuleList, rows: int = ROWS) -> list[Tensor]:
    first = torch.linspace(-1, 1, rows * WIDTH).reshape(rows, WIDTH).requires_grad_()
    vector = torch.linspace(0, 1, WIDTH).requires_grad_()
    table = torch.linspace(1, 2, rows * WIDTH).reshape(rows, WIDTH)
    x: Tensor = first
    for block in blocks:
        x = block(x, vector, table, factor=0.5)
    x.square().sum().backward()
    found = [tensor.grad for tensor in (first, vector, *blocks.parameters())]
    assert all(gradient is not None for gradient in found)
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("policy", [True, 2])
def test_offloaded_is_kept_bit_for_bit(policy: bool | int) -> None:
    kept, away = stack(), stack()
    link = SimulatedLink(1e6)
    recompute(list(kept), policy)
    recompute(list(away), policy, activations=Activations(link))
    for rows in (ROWS, 2 * ROWS, ROWS):  # buffers on the host are used again, as far as they fit
        assert all(map(torch.equal, gradients(kept, rows), gradients(away, rows)))
    assert len(link.log) == 3 * (DEPTH if policy is True else 3)  # neither the vector nor the table


def test_of_streamed_blocks_too() -> None:
    kept, away = stack(), stack()
    recompute(list(kept))
    link = SimulatedLink(1e6)
    packed = [PackedBlock(block, link, trained=True) for block in away]
    stream(list(away), packed, torch.device("cpu"), link, activations=Activations(link))
    for _ in range(2):
        assert all(map(torch.equal, gradients(kept), gradients(away)))


def test_copies_overlap_with_the_computation() -> None:
    """Copies of 0.9 s beside kernels of 1 s: only the inputs of the last block are waited for, out and back."""
    link = SimulatedLink(bandwidth=BYTES / 0.9)
    blocks = stack(link)
    recompute(list(blocks), activations=Activations(link))
    gradients(blocks)
    assert link.stalled == pytest.approx(0.9)  # out beside the last block itself
    assert link.computed == pytest.approx(2 * DEPTH + 0.9)


def test_buffers_are_used_again() -> None:
    link = SimulatedLink(1e6)
    activations = Activations(link)
    blocks = stack()
    recompute(list(blocks), activations=activations)
    for rows in (ROWS, 4 * ROWS, ROWS, 2 * ROWS):
        gradients(blocks, rows)
    assert len(activations._free) == DEPTH
    assert {buffer.numel() for buffer in activations._free} == {4 * BYTES}


def test_a_pass_that_is_broken_off_leaves_nothing() -> None:
    kept, away = stack(), stack()
    link = SimulatedLink(1e6)
    recompute(list(kept))
    recompute(list(away), activations=Activations(link))
    x = torch.ones(ROWS, WIDTH, requires_grad=True)
    for block in away[:3]:  # type: ignore[union-attr]
        x = block(x, torch.ones(WIDTH), torch.ones(ROWS, WIDTH), factor=1.0)
    del x
    assert all(map(torch.equal, gradients(kept), gradients(away)))
    assert len(link.log) == DEPTH


def test_nothing_waits_on_the_device() -> None:
    """Between forward and backward the autograd graph holds no input of a block."""
    blocks = stack()
    recompute(list(blocks), activations=Activations(SimulatedLink(1e6)))
    held: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        held.append(tuple(tensor.shape))
        return tensor

    x = torch.ones(ROWS, WIDTH, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for block in blocks:
            x = block(x, torch.ones(WIDTH), torch.ones(ROWS, WIDTH), factor=1.0)
    assert (ROWS, WIDTH) not in held
