"""Runs of equal blocks."""

from __future__ import annotations

from torch import nn

from velatura.planning.phases import highest
from velatura.planning.repeats import UPDATE, Again, Run, mixed, prune, runs_of, whole
from velatura.planning.tracking import Bytes, Label, Segment, Work


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.ModuleList([nn.Linear(4, 4) for _ in range(5)])
        self.narrow = nn.ModuleList([nn.Linear(2, 2) for _ in range(2)])


def segment(label: Label, start: int, peak: int, end: int) -> Segment:
    sizes = (Bytes(activations=size) for size in (start, peak, end))
    return Segment(
        label=label, start=next(sizes), peak=next(sizes), end=next(sizes), work=Work(flops=1, seconds=1)
    )


def test_equal_neighbours_are_a_run() -> None:
    net = Net()
    assert runs_of([*net.wide, *net.narrow]) == [Run(first=0, count=5), Run(first=5, count=2)]
    net.wide[1].requires_grad_(False)  # one that is not trained differs from its neighbours
    assert [run.count for run in runs_of(list(net.wide))] == [1, 1, 3]


def test_the_middle_block_stands_for_those_that_are_taken_out() -> None:
    net = Net()
    blocks = [*net.wide, *net.narrow]
    assert prune(net, blocks, runs_of(blocks)) == {1: 2}
    assert (len(net.wide), len(net.narrow)) == (3, 2)
    assert net.wide[2] is blocks[2]


def test_a_block_is_repeated_forwards_and_backwards() -> None:
    """Two blocks of 10 are kept, three more left out: 10 + 10 + 30 at the turn, and 5 on top at the peak."""
    segments = [
        segment(("start", 0), 0, 0, 0),
        segment(("forward", 0), 0, 12, 10),
        segment(("forward", 1), 10, 22, 20),
        segment(("backward", 1), 20, 25, 10),
        segment(("backward", 0), 10, 11, 0),
        segment(UPDATE, 0, 0, 0),
    ]
    done = whole(segments, {1: 3}, Bytes(denoiser=100), values=4)
    peak = highest(done.moments)
    assert peak == Bytes(denoiser=100, activations=55) | {
        kind: 0 for kind in peak if kind not in ("denoiser", "activations")
    }
    assert done.turn["activations"] == 50
    assert done.work.flops == 1 + 1 + 4 + 4 + 1 + 4


def test_gradients_of_layers_that_ran_ahead_come_at_the_end() -> None:
    segments = [
        segment(("forward", 0), 0, 10, 10),
        segment(("backward", 0), 10, 10, 0),
        segment(UPDATE, 0, 0, 0),
    ]
    done = whole(segments, {}, Bytes(trained=40))
    assert highest(done.moments)["gradients"] == 40


def three_blocks(kept: int, brief: int) -> list[Segment]:
    """Of five: each keeps so much, and takes so much more in its backward pass."""
    forward = [segment(("forward", n), n * kept, n * kept + 12, (n + 1) * kept) for n in range(3)]
    backward = [
        segment(("backward", n), (n + 1) * kept, (n + 1) * kept + brief, n * kept) for n in reversed(range(3))
    ]
    return [segment(("start", 0), 0, 0, 0), *forward, *backward, segment(UPDATE, 0, 0, 0)]


def test_a_recomputed_block_comes_on_top_of_what_then_waits() -> None:
    """The second and the fourth of five: 10 + 2 + 10 wait for the fourth, which takes 2 + 11 itself."""
    again = Again(segments=three_blocks(2, 11), places=(1, 3))
    done = whole(three_blocks(10, 3), {1: 2}, Bytes(), again=again)
    held = [moment.held["activations"] for moment in done.moments if moment.kind == "backward"]
    assert done.turn["activations"] == 3 * 10 + 2 * 2
    # the last, the fourth, the third, the second, the first
    assert held == [34 + 3, 24 + 11, 22 + 3, 12 + 11, 10 + 3]


def test_blocks_that_are_all_recomputed_are_as_they_were_followed() -> None:
    again = three_blocks(2, 11)
    woven = whole(three_blocks(10, 3), {1: 2}, Bytes(), again=Again(segments=again, places=range(5)))
    assert woven == whole(again, {1: 2}, Bytes())


def test_a_share_of_what_two_ways_hold() -> None:
    found = mixed(three_blocks(10, 3), three_blocks(2, 11), 0.25)
    assert [one.end["activations"] for one in found] == [0, 8, 16, 24, 16, 8, 0, 0]
