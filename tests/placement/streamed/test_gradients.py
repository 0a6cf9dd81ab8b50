"""Streamed blocks that are trained: gradients go out, or new weights do, and nothing else differs."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from tests.placement.simulated import SimulatedLink
from torch import Tensor, nn

from velatura.placement.recompute import recompute
from velatura.placement.streamed.gradients import TrainedBlocks
from velatura.placement.streamed.links import Link
from velatura.placement.streamed.packed import PackedBlock
from velatura.placement.streamed.ring import SLOTS_BOTH_WAYS, Ring
from velatura.placement.streamed.streaming import stream
from velatura.recipe.training.optimizer import Optimizer
from velatura.training.optimizer import make_optimizer
from velatura.training.optimizers.in_backward import in_backward
from velatura.training.optimizers.visits import Visits

WIDTH = 8
DEPTH = 5
BYTES = 256 * 3  # of a block: two trained tensors and a frozen one, each aligned
CPU = torch.device("cpu")


class Block(nn.Module):
    """A pass of it takes a second on the simulated clock; its last operation needs nothing for its backward."""

    def __init__(self, seed: int, link: SimulatedLink | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layer = nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        self.register_buffer("frozen", torch.randn(WIDTH, generator=generator))
        self.link = link

    def forward(self, x: Tensor) -> Tensor:
        if self.link is not None:
            self.link.compute(1.0)
        return x + torch.tanh(x @ self.layer.weight.t() * self.frozen) + self.layer.bias


def stack(link: SimulatedLink | None = None, dtype: torch.dtype = torch.float32) -> nn.ModuleList:
    return nn.ModuleList(Block(seed, link) for seed in range(DEPTH)).to(dtype)


def streamed(
    blocks: nn.ModuleList,
    link: Link,
    slots: int = 2,
    *,
    updated: bool = False,
    norms: dict[nn.Parameter, Tensor] | None = None,
) -> Ring:
    packed = [PackedBlock(block, link, trained=True) for block in blocks]
    return stream(list(blocks), packed, CPU, link, slots, updated_in_backward=updated, norms=norms)


def run(blocks: nn.ModuleList, factor: float = 1.0) -> Tensor:
    x = factor * torch.linspace(-1, 1, 3 * WIDTH).reshape(3, WIDTH).to(blocks[0].layer.bias.dtype)  # type: ignore[union-attr, arg-type]
    for block in blocks:
        x = block(x)
    return x


def loss(blocks: nn.ModuleList, factor: float = 1.0) -> Tensor:
    return run(blocks, factor).square().sum()


def gradients(blocks: nn.ModuleList) -> list[Tensor]:
    found = [parameter.grad for parameter in blocks.parameters() if parameter.grad is not None]
    assert len(found) == 2 * DEPTH
    return found


def same(one: nn.ModuleList, other: nn.ModuleList) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("slots", [2, 3, DEPTH])
def test_gradients_of_several_passes_bit_for_bit(slots: int) -> None:
    resident, away = stack(), stack()
    recompute(list(resident))
    streamed(away, SimulatedLink(1e6), slots)
    for factor in (1.0, 2.0, 3.0):
        for blocks in (resident, away):
            loss(blocks, factor).backward()
        assert all(map(torch.equal, gradients(resident), gradients(away)))
    for parameter in away.parameters():
        parameter.grad = None
    loss(away).backward()
    for parameter in resident.parameters():
        parameter.grad = None
    loss(resident).backward()
    assert all(map(torch.equal, gradients(resident), gradients(away)))


def test_norms_are_those_of_the_gradients_that_are_on_the_host() -> None:
    """Of the sum, after each of several passes."""
    away, norms = stack(), dict[nn.Parameter, Tensor]()
    streamed(away, SimulatedLink(1e6), norms=norms)
    for factor in (1.0, 2.0):
        loss(away, factor).backward()
        assert norms.keys() == set(away.parameters())
        for parameter, norm in norms.items():
            assert parameter.grad is not None
            assert torch.equal(norm, torch.linalg.vector_norm(parameter.grad))


def test_two_forward_passes_before_one_backward_pass() -> None:
    resident, away = stack(), stack()
    streamed(away, SimulatedLink(1e6))
    for blocks in (resident, away):
        (loss(blocks) + loss(blocks, 2.0)).backward()
    for ours, theirs in zip(gradients(away), gradients(resident), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_that_come_one_after_the_other_in_a_pass() -> None:
    """As on a GPU, where each visit of a weight is another end of the graph."""
    away = stack()
    link = SimulatedLink(1e6)
    packed = [PackedBlock(block, link, trained=True) for block in away]
    ring = Ring(packed, CPU, link)
    trained = TrainedBlocks(ring, packed, link, updated_in_backward=False, norms={})
    trained._ends = True  # no backward pass is under way
    weight = packed[0].trained[0]
    for factor in (1.0, 2.0):
        trained._before(0, 0)
        weight.grad = torch.full_like(weight, factor)
        trained._after(0, 0)
        assert weight.grad is None
    trained.end()
    assert torch.equal(weight.grad, torch.full_like(weight, 3.0))


def test_a_pass_that_is_broken_off_leaves_nothing() -> None:
    class Broken(RuntimeError):
        pass

    resident, away = stack(), stack()
    streamed(away, SimulatedLink(1e6))

    def refuse(gradient: Tensor) -> None:
        raise Broken

    handle = away[1].layer.weight.register_hook(refuse)  # type: ignore[union-attr, operator]
    with pytest.raises(Broken):
        loss(away, 5.0).backward()
    handle.remove()
    for parameter in away.parameters():
        parameter.grad = None
    for blocks in (resident, away):
        loss(blocks).backward()
    assert all(map(torch.equal, gradients(resident), gradients(away)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["adamw", "adamw8bit", "adafactor"])
@pytest.mark.parametrize("fused", [False, True])
def test_steps_bit_for_bit(kind: str, dtype: torch.dtype, fused: bool) -> None:
    section = Optimizer(kind=kind, learning_rate=0.05, clip=0, fused_backward=fused)
    resident, away = stack(dtype=dtype), stack(dtype=dtype)
    recompute(list(resident))
    link = SimulatedLink(1e6)
    streamed(away, link, updated=fused)
    visits = Visits(CPU, link, weights=() if fused else list(away.parameters()))
    optimizers = [
        (resident, make_optimizer(section, dict(resident.named_parameters()))),
        (away, make_optimizer(section, dict(away.named_parameters()), visits=visits)),
    ]
    before = [parameter.detach().clone() for parameter in resident.parameters()]
    for step in range(4):
        for blocks, optimizer in optimizers:
            loss(blocks, 1.0 + step).backward()
            if not fused:
                nn.utils.clip_grad_norm_(blocks.parameters(), 1.0)
            if (within := in_backward(optimizer)) is not None:
                within.take_norm()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        assert same(resident, away)
        with torch.no_grad():
            assert torch.equal(run(resident), run(away))
    assert not any(map(torch.equal, before, resident.parameters()))


def test_weights_that_change_between_passes_are_seen() -> None:
    """By an average, or a state: not what a slot still holds."""
    resident, away = stack(), stack()
    streamed(away, SimulatedLink(1e6), DEPTH)
    for blocks in (resident, away):
        loss(blocks).backward()
        with torch.no_grad():
            for parameter in blocks.parameters():
                parameter.mul_(0.5)
            run(blocks)
            for parameter in blocks.parameters():
                parameter.mul_(0.5)
    assert same(resident, away)
    with torch.no_grad():
        assert torch.equal(run(resident), run(away))


@pytest.mark.parametrize("updated", [False, True])
def test_between_passes_all_is_on_the_host(updated: bool) -> None:
    away = stack()
    link = SimulatedLink(1e6)
    ring = streamed(away, link, updated=updated)
    homes = [parameter.data_ptr() for parameter in away.parameters()]
    section = Optimizer(clip=0, fused_backward=updated)
    within = in_backward(make_optimizer(section, dict(away.named_parameters())))
    for _ in range(2):
        loss(away).backward()
        if within is not None:
            within.take_norm()
        assert [parameter.data_ptr() for parameter in away.parameters()] == homes
    with torch.no_grad():
        run(away)
    assert [parameter.data_ptr() for parameter in away.parameters()] == homes
    assert ring.traffic.back == (2 * DEPTH * BYTES if updated else 0)
    assert ring.traffic.misses == 3  # the first block of every pass


def test_copies_back_hide_behind_the_computation() -> None:
    """Copies of 0.9 s each way beside kernels of 1 s: only the first and the last are waited for."""
    link = SimulatedLink(bandwidth=BYTES / 0.9)
    away = stack(link)
    streamed(away, link, SLOTS_BOTH_WAYS, updated=True)
    make_optimizer(Optimizer(clip=0, fused_backward=True), dict(away.named_parameters()))
    loss(away).backward()
    assert link.computed == pytest.approx(2 * DEPTH + 2 * 0.9)
    assert link.stalled == pytest.approx(2 * 0.9)


def test_autocast_keeps_no_copies_of_streamed_weights() -> None:
    resident, away = stack(), stack()
    streamed(away, SimulatedLink(1e6))
    with torch.autocast("cpu", torch.bfloat16):
        for blocks in (resident, away):
            loss(blocks).backward()
        weight = away[0].layer.weight  # type: ignore[union-attr]
        run(away)
        assert torch.is_autocast_cache_enabled()
    assert weight.dtype == torch.float32
    assert all(map(torch.equal, gradients(resident), gradients(away)))


def test_nothing_is_kept_alive() -> None:
    """Hooks lie where the garbage collector does not look."""
    away = stack()
    streamed(away, SimulatedLink(1e6))
    loss(away).backward()
    first = weakref.ref(away[0])
    del away
    gc.collect()
    assert first() is None


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_compiled_blocks(fused: bool) -> None:
    """A compiled graph that kept a slot's storage would give wrong gradients, silently."""
    resident, away = stack(), stack()
    for block in (*resident, *away):
        block.forward = torch.compile(block.forward, backend="aot_eager")  # type: ignore[method-assign]
    recompute(list(resident))
    link = SimulatedLink(1e6)
    streamed(away, link, updated=fused)
    section = Optimizer(learning_rate=0.05, clip=0, fused_backward=fused)
    visits = Visits(CPU, link, weights=() if fused else list(away.parameters()))
    optimizers = [
        (resident, make_optimizer(section, dict(resident.named_parameters()))),
        (away, make_optimizer(section, dict(away.named_parameters()), visits=visits)),
    ]
    for step in range(3):
        for blocks, optimizer in optimizers:
            for factor in (1.0,) if fused else (1.0, 2.0):
                loss(blocks, factor + step).backward()
            if (within := in_backward(optimizer)) is not None:
                within.take_norm()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        assert same(resident, away)
