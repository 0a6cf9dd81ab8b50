"""Blocks that are alike: three of a run are followed, and what the middle one does is repeated for those left out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from velatura.planning.phases import Moment, highest
from velatura.planning.tracking import KINDS, Bytes, Label, Segment, Work

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
    """What the whole network does: its moments, what is held when the backward pass begins, all work, the update's."""

    moments: tuple[Moment, ...]
    turn: Bytes
    work: Work
    update: Work


@dataclass(frozen=True, kw_only=True)
class Again:
    """The same network followed with every block recomputed, and the places of the blocks that are, of all."""

    segments: Sequence[Segment]
    places: Collection[int]


def whole(
    segments: Sequence[Segment],
    left_out: Mapping[int, int],
    more: Bytes,
    values: float = 1.0,
    *,
    freed: bool = False,
    again: Again | None = None,
) -> Whole:
    """The segments of a pruned network, those of repeated blocks as often as the whole network has them.

    `more`: what the blocks that were left out hold all the time: weights, trained values, optimizer state. `values`:
    how many times the trained values that are followed the whole network has, which the update takes.
    `freed`: gradients are freed within the backward pass. `again`: what stands for some of the blocks instead.
    """
    turn, held, work, update = Bytes(), segments[0].start.plus(more), Work(), Work()
    moments: list[Moment] = []
    gradients = more["gradients"]  # of blocks that were left out
    for parts in _per_block(segments, left_out, again):
        first, (kind, place) = parts[0], parts[0].label
        if kind == "backward" and not turn:
            turn = held
        ahead = (kind, place) in (("backward", 0), UPDATE)  # layers that run ahead of their blocks come last
        if turn and ahead and not freed:
            missing = max(0, more["trained"] - gradients)
            held, gradients = held.plus({"gradients": missing}), gradients + missing
        peaks = []
        for part in parts:
            peaks.append((part, Moment(kind=kind, held=held.plus(part.peak).plus(part.start, -1))))
            held = held.plus(part.end).plus(part.start, -1)
            work.add(part.work, values if part.label == UPDATE else 1)
            if part.label == UPDATE:
                update.add(part.work, values)
        gradients += sum(part.end["gradients"] - part.start["gradients"] for part in parts) - (
            first.end["gradients"] - first.start["gradients"]
        )
        moments += _ends(peaks)
    return Whole(moments=tuple(moments), turn=turn or highest(tuple(moments)), work=work, update=update)


def mixed(own: Sequence[Segment], other: Sequence[Segment], share: float) -> list[Segment]:
    """Segments between those of two ways to run the same network."""
    return [_between(a, b, share) for a, b in zip(own, other, strict=True)]


def _per_block(
    segments: Sequence[Segment], left_out: Mapping[int, int], again: Again | None
) -> Iterator[list[Segment]]:
    """For each segment those of the blocks that it stands for, in the order in which they run."""
    others = {} if again is None else {one.label: one for one in again.segments}
    places = () if again is None else again.places
    count = sum(segment.label[0] == "forward" for segment in segments) + sum(left_out.values())
    for segment in segments:
        kind, place = segment.label
        other = others.get(segment.label, segment)
        if kind not in ("forward", "backward"):
            yield [_between(segment, other, len(places) / max(1, count)) if again else segment]
            continue
        first = place + sum(times for earlier, times in left_out.items() if earlier < place)
        stands_for = range(first, first + 1 + left_out.get(place, 0))
        order = stands_for if kind == "forward" else reversed(stands_for)
        yield [other if one in places else segment for one in order]


def _ends(peaks: Sequence[tuple[Segment, Moment]]) -> list[Moment]:
    """The first and the last moment of blocks that do the same: what they hold grows or shrinks evenly in between."""
    first = {id(part): number for number, (part, _) in reversed(list(enumerate(peaks)))}
    last = {id(part): number for number, (part, _) in enumerate(peaks)}
    return [peaks[number][1] for number in sorted({*first.values(), *last.values()})]


def _between(own: Segment, other: Segment, share: float) -> Segment:
    def held(a: Bytes, b: Bytes) -> Bytes:
        return Bytes({kind: int(a[kind] + share * (b[kind] - a[kind])) for kind in KINDS})

    work = Work()
    work.add(own.work, 1 - share)
    work.add(other.work, share)
    return Segment(
        label=own.label,
        start=held(own.start, other.start),
        peak=held(own.peak, other.peak),
        end=held(own.end, other.end),
        work=work,
    )


def _shape(block: nn.Module) -> tuple[object, ...]:
    tensors = [*block.named_parameters(), *block.named_buffers()]
    weights = tuple((name, tuple(t.shape), t.dtype, t.requires_grad) for name, t in tensors)
    run = getattr(block.forward, "__func__", block.forward)  # the last one may do less than those before it
    return type(block), run, tuple(type(module) for module in block.modules()), weights
