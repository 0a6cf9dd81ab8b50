"""Blocks that are alike: three of a run are followed, and what the middle one does is repeated for those left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from velatura.planning.phases import Moment, highest
from velatura.planning.tracking import Bytes, Label, Segment, Work

UPDATE: Label = ("update", 0)
KEPT = 3  # of a run: the first, one in the middle, the last


@dataclass(frozen=True, kw_only=True)
class Run:
    """Blocks in a row that have equal shapes, by their places among all blocks."""

    first: int
    count: int

    @property
    def kept(self) -> range:
        """The places of those that are followed."""
        return range(self.first, self.first + min(KEPT, self.count))

    @property
    def left_out(self) -> int:
        """How many are not."""
        return self.count - len(self.kept)


def runs_of(blocks: Sequence[nn.Module]) -> list[Run]:
    """The blocks as runs of equal ones."""
    found, first = [], 0
    for _, same in groupby(blocks, key=_shape):
        count = len(list(same))
        found.append(Run(first=first, count=count))
        first += count
    return found


def stacked(root: nn.Module) -> list[nn.Module]:
    """The blocks of all lists in a network that are long enough to leave some out."""
    lists = [module for module in root.modules() if isinstance(module, nn.ModuleList)]
    return [block for blocks in lists if len(blocks) >= KEPT for block in blocks]


def prune(root: nn.Module, blocks: Sequence[nn.Module], runs: Sequence[Run]) -> dict[int, int]:
    """Take the blocks that are not followed out of the lists in `root`, in place.

    Returns how often each block that is left, by its new place, stands for one that was taken out. Lists that hold
    other modules too stay as they are, and all of their blocks.
    """
    kept = {index for run in runs for index in run.kept}
    removed = {id(block) for index, block in enumerate(blocks) if index not in kept}
    for module in list(root.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ModuleList) and any(id(one) in removed for one in child):
                setattr(module, name, nn.ModuleList([one for one in child if id(one) not in removed]))
    left_out, place = {}, 0
    for run in runs:
        if run.left_out:
            left_out[place + 1] = run.left_out
        place += len(run.kept)
    return left_out


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What the whole network does: its moments, what is held when the backward pass begins, all work."""

    moments: tuple[Moment, ...]
    turn: Bytes
    work: Work


def whole(
    segments: Sequence[Segment],
    left_out: dict[int, int],
    more: Bytes,
    values: float = 1.0,
    *,
    freed: bool = False,
) -> Whole:
    """The segments of a pruned network, those of repeated blocks as often as the whole network has them.

    `more`: what the blocks that were left out hold all the time: weights, trained values, optimizer state. `values`:
    how many times the trained values that are followed the whole network has, which the update takes.
    `freed`: gradients are freed within the backward pass.
    """
    turn, offset, work = Bytes(), more, Work()
    moments: list[Moment] = []
    for segment in segments:
        kind, place = segment.label
        if kind == "backward" and not turn:
            turn = segment.start.plus(offset)
        ahead = (kind, place) in (("backward", 0), UPDATE)  # layers that run ahead of their blocks come last
        if turn and ahead and not freed:
            offset = offset.plus({"gradients": max(0, more["trained"] - offset["gradients"])})
        times = left_out.get(place, 0) if kind in ("forward", "backward") else 0
        grown = segment.end.plus(segment.start, -1)
        moments.append(Moment(kind=kind, held=segment.peak.plus(offset)))
        if times:
            offset = offset.plus(grown, times)
            moments.append(Moment(kind=kind, held=segment.peak.plus(offset)))
        work.add(segment.work, values if segment.label == UPDATE else 1 + times)
    return Whole(moments=tuple(moments), turn=turn or highest(tuple(moments)), work=work)


def _shape(block: nn.Module) -> tuple[object, ...]:
    tensors = [*block.named_parameters(), *block.named_buffers()]
    weights = tuple((name, tuple(t.shape), t.dtype, t.requires_grad) for name, t in tensors)
    run = getattr(block.forward, "__func__", block.forward)  # the last one may do less than those before it
    return type(block), run, tuple(type(module) for module in block.modules()), weights
