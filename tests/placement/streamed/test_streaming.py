from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.placement.simulated import SimulatedLink, Timed
from torch import Tensor, nn

from velatura.adapters.lora import Down, LoraLinear
from velatura.placement.precision.quantised import Fp8Linear
from velatura.placement.recompute import recompute, whole
from velatura.placement.streamed.fetched import fetched_again
from velatura.placement.streamed.links import Link, PlainLink
from velatura.placement.streamed.packed import PackedBlock
from velatura.placement.streamed.ring import Ring
from velatura.placement.streamed.streaming import evenly
from velatura.placement.streamed.streaming import stream as stream_packed

WIDTH = 8
DEPTH = 6
BYTES = 256 * 2  # of a block: weight and bias, each aligned


AGAIN = pytest.mark.parametrize("again", [False, True], ids=["fetched again", "run again"])


class Block(nn.Module):
    """A frozen layer that carries a LoRA; a pass of it takes a second on the simulated clock, back and forth."""

    def __init__(self, seed: int, link: SimulatedLink | None = None, *, fp8: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        base = nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            base.weight.copy_(torch.randn(WIDTH, WIDTH, generator=generator) / 3)
            base.bias.copy_(torch.randn(WIDTH, generator=generator) / 3)
        base.requires_grad_(False)
        down = Down(torch.randn(2, WIDTH, generator=generator))
        up = torch.randn(WIDTH, 2, generator=generator)
        self.layer = LoraLinear(Fp8Linear.of(base) if fp8 else base, down, up, alpha=1.0)
        self.link = link

    def forward(self, x: Tensor) -> Tensor:
        link = self.link
        if link is not None:
            link.compute(1.0)
            x = Timed.apply(x, lambda: link.compute(1.0))  # type: ignore[no-untyped-call]
        return x + self.feed_forward(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


def stack(link: SimulatedLink | None = None, *, fp8: bool = False) -> nn.ModuleList:
    return nn.ModuleList(Block(seed, link, fp8=fp8) for seed in range(DEPTH))


def stream(blocks: list[nn.Module], link: Link, slots: int = 2, *, again: bool | int = False) -> Ring:
    packed = [PackedBlock(block, link) for block in blocks]
    return stream_packed(blocks, packed, torch.device("cpu"), link, slots, again=whole(blocks, again))


def run(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def gradients(blocks: nn.ModuleList, passes: int = 2) -> list[Tensor]:
    for factor in range(1, passes + 1):
        loss(blocks, factor).backward()
    return found(blocks)


def loss(blocks: nn.ModuleList, factor: float = 1.0) -> Tensor:
    x = factor * torch.linspace(-1, 1, 3 * WIDTH).reshape(3, WIDTH)
    return run(blocks, x.requires_grad_()).square().sum()


def found(blocks: nn.ModuleList) -> list[Tensor]:
    trained = [parameter for parameter in blocks.parameters() if parameter.requires_grad]
    assert len(trained) == 2 * DEPTH
    assert all(parameter.grad is not None for parameter in trained)
    return [parameter.grad for parameter in trained if parameter.grad is not None]


@pytest.mark.parametrize("again", [False, True, 2], ids=["fetched again", "run again", "every second one"])
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("slots", [2, 3, 6])
def test_streamed_is_resident_bit_for_bit(slots: int, fp8: bool, again: bool | int) -> None:
    resident, streamed = stack(fp8=fp8), stack(fp8=fp8)
    ring = stream(list(streamed), SimulatedLink(1e6), slots, again=again)
    assert all(map(torch.equal, gradients(resident), gradients(streamed)))
    x = torch.ones(1, WIDTH)
    with torch.no_grad():
        assert torch.equal(run(resident, x), run(streamed, x))
    ring.leave()
    for name, value in resident.state_dict().items():
        assert torch.equal(value.view(torch.uint8), streamed.state_dict()[name].view(torch.uint8)), name


@AGAIN
def test_some_blocks_streamed_and_some_resident(again: bool) -> None:
    resident, mixed = stack(), stack()
    blocks = list(mixed)
    ring = stream([blocks[1], blocks[3], blocks[4]], SimulatedLink(1e6), again=again)
    assert all(map(torch.equal, gradients(resident), gradients(mixed)))
    assert ring.traffic.misses == 1  # the very first


@AGAIN
def test_every_block_comes_in_one_copy_each_way(again: bool) -> None:
    """Forward: all. Backward: all but those that are still in the ring; likewise the next forward."""
    blocks = stack()
    ring = stream(list(blocks), SimulatedLink(1e6), slots=2, again=again)
    gradients(blocks, passes=1)
    assert ring.traffic.visits == 2 * DEPTH - (0 if again else 1)  # the last one does not go in between
    assert ring.traffic.copies == DEPTH + (DEPTH - 2)
    assert ring.traffic.misses == 1
    assert ring.traffic.bytes == ring.traffic.copies * BYTES
    gradients(blocks, passes=1)
    assert ring.traffic.copies == DEPTH + 3 * (DEPTH - 2)
    assert ring.traffic.misses == 1


@AGAIN
@pytest.mark.parametrize("slots", [2, 3])
@pytest.mark.parametrize("places", [[0], [1, 4], [5], [0, 2, 4], [1, 2, 3, 4, 5], range(DEPTH)], ids=str)
def test_of_blocks_that_stay_nothing_is_copied(places: list[int], slots: int, again: bool) -> None:
    """In passes without gradients; before and after them all are streamed."""
    resident, streamed = stack(), stack()
    ring = stream(list(streamed), SimulatedLink(1e6), slots, again=again)
    gradients(streamed, passes=1)
    before = ring.traffic.copies
    ring.stay(places)
    assert ring.traffic.copies == before + len(places)
    for number in range(4):
        before = ring.traffic.copies
        x = torch.full((1, WIDTH), float(number))
        with torch.no_grad():
            assert torch.equal(run(resident, x), run(streamed, x))
        visiting = DEPTH - len(places)
        assert ring.traffic.copies - before <= visiting + (slots - 1 if number == 0 else 0)
        if number:
            assert ring.traffic.copies - before == (0 if visiting <= slots else visiting)
    ring.go()
    for blocks in (resident, streamed):
        blocks.zero_grad()
    assert all(map(torch.equal, gradients(resident), gradients(streamed)))


def test_blocks_that_stay_and_were_never_run_can_go() -> None:
    ring = stream(list(stack()), SimulatedLink(1e6))
    ring.stay([0, 3])
    ring.go()
    assert ring.traffic.copies == 2


@AGAIN
def test_two_forward_passes_before_one_backward_pass(again: bool) -> None:
    resident, streamed = stack(), stack()
    ring = stream(list(streamed), SimulatedLink(1e6), again=again)
    for blocks in (resident, streamed):
        (loss(blocks) + loss(blocks, 2.0)).backward()
    assert all(map(torch.equal, found(resident), found(streamed)))
    assert ring.traffic.misses == 3 + again  # the first, and the last of each pass but that which turns round


@AGAIN
def test_a_graph_may_be_gone_through_twice(again: bool) -> None:
    resident, streamed = stack(), stack()
    stream(list(streamed), SimulatedLink(1e6), again=again)
    for blocks in (resident, streamed):
        out = loss(blocks)
        out.backward(retain_graph=True)
        out.backward()
    assert all(map(torch.equal, found(resident), found(streamed)))


@AGAIN
def test_painting_between_forward_and_backward(again: bool) -> None:
    resident, streamed = stack(), stack()
    stream(list(streamed), SimulatedLink(1e6), again=again)
    for blocks in (resident, streamed):
        out = loss(blocks)
        with torch.no_grad():
            run(blocks, torch.ones(1, WIDTH))
        out.backward()
    assert all(map(torch.equal, found(resident), found(streamed)))


def test_parts_are_run_again_with_the_weights_in_a_slot() -> None:
    """Of a block that is fetched again; on the host they would be there as well, and on a GPU they would not."""
    resident, streamed = stack(), stack()
    ring = stream(list(streamed), SimulatedLink(1e6))
    there: list[bool] = []
    for block in streamed:

        def run_part(x: Tensor, block: Any = block, own: Any = block.feed_forward) -> Tensor:
            there.append(ring.holds(block.layer.base.weight))
            return own(x)  # type: ignore[no-any-return]

        block.feed_forward = run_part  # type: ignore[assignment]
    recompute(list(streamed), "mlp", [(block, "feed_forward") for block in streamed])
    assert all(map(torch.equal, gradients(resident), gradients(streamed)))
    assert there == [True] * 2 * 2 * DEPTH


def test_weights_are_kept_as_places() -> None:
    """Whatever view of them the graph wants: it comes back from the slot that the block is in by then."""
    blocks = list(stack(fp8=True))
    link = SimulatedLink(1e6)
    ring = Ring([PackedBlock(block, link) for block in blocks], torch.device("cpu"), link)
    hooks = fetched_again(ring, 1, in_parts=True)
    ring.bring(1)
    base = blocks[1].layer.base  # type: ignore[union-attr]
    views = base.values, base.values.t(), base.values[2:5, ::2], base.scale, base.bias  # type: ignore[union-attr]
    expected = [view.clone() for view in views]  # type: ignore[operator, union-attr]
    kept = [hooks.pack_hook(view) for view in views]  # type: ignore[arg-type]
    assert not any(isinstance(one, Tensor) for one in kept)
    ring.bring(2)
    ring.bring(3)
    other = torch.ones(3)
    assert hooks.pack_hook(other) is other
    for one, view, wanted in zip(kept, views, expected, strict=True):
        back = hooks.unpack_hook(one)
        assert ring.holds(back)
        assert (back.dtype, back.stride()) == (view.dtype, view.stride())  # type: ignore[operator, union-attr]
        assert torch.equal(back.float(), wanted.float())


def test_sampling_wraps_round() -> None:
    blocks = stack()
    ring = stream(list(blocks), SimulatedLink(1e6), slots=2)
    with torch.no_grad():
        for _ in range(3):
            run(blocks, torch.ones(1, WIDTH))
    assert ring.traffic.misses == 1
    assert ring.traffic.copies == 3 * DEPTH + 1


def test_what_no_gradient_reaches_wraps_round_in_training_too() -> None:
    """As layers ahead of their blocks do: no backward pass will ask for them, so the next forward's are fetched."""
    blocks = stack().requires_grad_(False)
    ring = stream(list(blocks), SimulatedLink(1e6), slots=2)
    for _ in range(3):
        assert not run(blocks, torch.ones(1, WIDTH)).requires_grad
    assert ring.traffic.misses == 1
    assert ring.traffic.copies == 3 * DEPTH + 1


def test_a_preview_between_steps_costs_no_more_than_one_miss() -> None:
    blocks = stack()
    ring = stream(list(blocks), SimulatedLink(1e6), slots=2)
    gradients(blocks, passes=1)
    with torch.no_grad():
        run(blocks, torch.ones(1, WIDTH))
    gradients(blocks, passes=1)
    assert ring.traffic.misses <= 2


@AGAIN
def test_copies_hide_behind_the_computation(again: bool) -> None:
    """Copies of 0.9 s beside kernels of 1 s: only the first is waited for."""
    link = SimulatedLink(bandwidth=BYTES / 0.9)
    blocks = stack(link)
    stream(list(blocks), link, slots=2, again=again)
    gradients(blocks)
    assert link.stalled == pytest.approx(0.9)
    assert link.computed == pytest.approx(2 * (3 if again else 2) * DEPTH + 0.9)


def test_a_slow_link_is_never_idle() -> None:
    """Copies of 3 s beside kernels of 1 s: the copies follow one another, and set the pace."""
    link = SimulatedLink(bandwidth=BYTES / 3)
    blocks = stack(link)
    stream(list(blocks), link, slots=3)
    with torch.no_grad():
        for _ in range(4):
            run(blocks, torch.ones(1, WIDTH))
    gaps = [after[0] - before[1] for before, after in zip(link.log, link.log[1:], strict=False)]
    assert max(gaps[2:]) == 0.0


def test_the_device_holds_slots_and_nothing_else() -> None:
    blocks = stack()
    ring = stream(list(blocks), PlainLink(), slots=3)
    assert ring.size == 3 * BYTES


def test_no_graph_holds_what_a_slot_holds() -> None:
    """Between forward and backward only what goes from block to block is kept, where blocks are run again."""
    blocks = stack()
    ring = stream(list(blocks), PlainLink(), again=True)
    slots = {slot.untyped_storage().data_ptr() for slot in ring._slots}
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(blocks)
    assert kept
    assert not slots & set(kept)


def test_what_is_trained_stays_where_it_is() -> None:
    block = Block(0)
    before = [parameter.data_ptr() for parameter in block.parameters() if parameter.requires_grad]
    packed = PackedBlock(block, PlainLink())
    assert len(packed.tensors) == 2
    assert [parameter.data_ptr() for parameter in block.parameters() if parameter.requires_grad] == before


def test_tensors_are_aligned_whatever_their_sizes() -> None:
    block = nn.ModuleList([nn.Linear(3, 5), nn.LayerNorm(7), nn.Linear(1, 1, dtype=torch.bfloat16)])
    block.requires_grad_(False)
    values = {name: value.clone() for name, value in block.state_dict().items()}
    PackedBlock(block, PlainLink())
    base = block[0].weight.untyped_storage().data_ptr()  # type: ignore[union-attr]
    assert all((tensor.data_ptr() - base) % 256 == 0 for tensor in block.parameters())
    assert all(torch.equal(value, values[name]) for name, value in block.state_dict().items())


def test_a_ring_of_one_block() -> None:
    block = Block(0)
    alone = nn.ModuleList([Block(0)])
    ring = stream(list(alone), SimulatedLink(1e6))
    x = torch.ones(1, WIDTH)
    with torch.no_grad():
        assert torch.equal(run(alone, x), block(x))
        run(alone, x)
    assert ring.traffic.copies == 1


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_a_share_is_spread_evenly(share: float) -> None:
    sizes = [340] * 19 + [142] * 38
    chosen = evenly(sizes, share)
    assert sum(sizes[index] for index in chosen) == pytest.approx(share * sum(sizes), abs=340)
    gaps = [after - before for before, after in itertools.pairwise(chosen)]
    if 0 < share < 1:
        assert max(gaps) <= 1 / share + 2


def test_jumps_are_met() -> None:
    """A pass that is broken off, and begins anew: fetched when it is wanted."""
    blocks = list(stack())
    link = SimulatedLink(1e6)
    packed = [PackedBlock(block, link) for block in blocks]
    ring = Ring(packed, torch.device("cpu"), link, slots=2)
    for index in (0, 1, 2, 0, 5, 4, 0):
        ring.bring(index)
        weight = blocks[index].layer.base.weight  # type: ignore[union-attr]
        assert torch.isfinite(weight).all()  # type: ignore[arg-type]
        assert torch.equal(weight, stack()[index].layer.base.weight)  # type: ignore[arg-type, union-attr]


@pytest.mark.slow
@AGAIN
def test_compiled_blocks(again: bool) -> None:
    """A compiled graph that kept a slot's storage would give wrong gradients, silently."""
    resident, streamed = stack(), stack()
    for block in (*resident, *streamed):
        block.forward = torch.compile(block.forward, backend="aot_eager")  # type: ignore[method-assign]
    stream(list(streamed), SimulatedLink(1e6), again=again)
    assert all(map(torch.equal, gradients(resident, passes=3), gradients(streamed, passes=3)))
