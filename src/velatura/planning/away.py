"""Frozen weights that stay in the machine's memory and visit the device: what that saves, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from velatura.placement.place import streamed_places
from velatura.placement.streaming import SLOTS
from velatura.planning.assembly import Assembled
from velatura.planning.phases import Phase
from velatura.planning.tracking import Bytes, Work


@dataclass(frozen=True, kw_only=True)
class Away:
    """Bytes that are streamed, those of the slots they pass through, and the share of the blocks that do."""

    host: int = 0
    slots: int = 0
    of_blocks: float = 0.0
    per_pass: int = 0  # bytes that cross the link in a forward or backward pass

    @property
    def saved(self) -> int:
        """Bytes of the device that are free for it."""
        return self.host - self.slots


def away(assembled: Assembled, share: float) -> Away:
    """What `memory.streamed` comes to."""
    if not share:
        return Away()
    ahead, blocks = assembled.ahead_sizes, assembled.block_sizes
    of_ahead, of_blocks = streamed_places(ahead, blocks, share)
    chosen = ([ahead[place] for place in of_ahead], [blocks[place] for place in of_blocks])
    return Away(
        host=sum(map(sum, chosen)),
        slots=sum(max(sizes) * min(SLOTS, len(sizes)) for sizes in chosen if sizes),
        of_blocks=len(of_blocks) / max(1, len(blocks)),
        per_pass=sum(map(sum, chosen)),
    )


def without(phase: Phase, gone: Away) -> Phase:
    """A phase whose streamed weights are not held."""
    return replace(phase, peak=phase.peak.plus({"denoiser": -gone.saved}))


def between(own: Phase, recomputed: Phase, share: float) -> Phase:
    """A phase in which a share of the blocks, spread evenly, is recomputed; by the two in which none and all are."""

    def mixed(a: float, b: float) -> float:
        return a + share * (b - a)

    kinds = {kind: int(mixed(size, recomputed.peak[kind])) for kind, size in own.peak.items()}
    kept = int(mixed(own.kept, recomputed.kept))
    # in the backward pass one block comes on top of what waits, whole where it is recomputed
    on_top = max(phase.peak["activations"] - phase.kept for phase in (own, recomputed))
    kinds["activations"] = kept + on_top
    work = Work()
    work.add(own.work, 1 - share)
    work.add(recomputed.work, share)
    return replace(own, peak=Bytes(kinds), kept=kept, work=work)
