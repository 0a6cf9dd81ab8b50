"""What stays in the machine's memory and visits the device: what that saves, and what it takes.

Weights that are streamed (with [full] their gradients too), averages of an optimizer, inputs of recomputed blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from velatura.placement.place import brought_places, streamed_places
from velatura.placement.streamed.ring import slots_for
from velatura.planning.assembly import Assembled
from velatura.planning.loop import Training
from velatura.planning.phases import Moment, Phase
from velatura.planning.repeats import KEPT
from velatura.planning.tracking import Bytes, Kind
from velatura.recipe.recipe import Recipe

SHOWING = ("preview", "export")  # phases with averages in the place of the values
PASSES = ("forward", "head", "backward")  # moments in which inputs of blocks wait
VISITING = 2  # tensors or blocks whose averages or inputs are on the device: the one at hand, and the next


@dataclass(frozen=True, kw_only=True)
class Away:
    """Bytes on the host, by what they are; bytes of the slots that streamed weights pass through.

    `of_blocks`: the places of the blocks that are streamed; `of_ahead`: the share of the layers ahead of them. `kind`:
    what is streamed is trained, or frozen.
    """

    host: int = 0
    slots: int = 0
    of_blocks: tuple[int, ...] = ()
    of_ahead: float = 0.0
    kind: Kind = "denoiser"
    gradients: int = 0  # of streamed weights
    at_hand: int = 0  # of these gradients, on the device
    optimizer: int = 0
    visiting: int = 0  # of the optimizer's averages, on the device
    averages: int = 0
    kept_aside: int = 0  # see `Training.kept_aside`
    per_pass: int = 0  # bytes that cross the link in a forward or backward pass
    once: int = 0  # of these, those that the backward pass does not want
    per_update: int = 0  # and to the device in an update

    @property
    def recomputed(self) -> tuple[tuple[int, ...], float]:
        """The places of blocks and the share of layers ahead that are run again since they are streamed.

        Frozen weights are fetched again instead.
        """
        return (self.of_blocks, self.of_ahead) if self.kind == "trained" else ((), 0.0)

    @property
    def saved(self) -> int:
        """Bytes of weights that the device does not hold for it."""
        return self.host - self.slots


def away(training: Training, recipe: Recipe, *, accumulated: bool) -> Away:
    """What `memory.streamed` and `optimizer.offload` come to; `accumulated`: gradients are, over several passes."""
    gone = _streamed(training, recipe, accumulated=accumulated)
    if recipe.optimizer.offload:
        held = training.offloaded()
        trained = max(1, training.resident["trained"])
        visiting = VISITING * training.assembled.largest * held // trained
        gone = replace(gone, optimizer=held, visiting=min(held, visiting), per_update=gone.per_update + held)
    return gone


def _streamed(training: Training, recipe: Recipe, *, accumulated: bool) -> Away:
    assembled = training.assembled
    share, fused = recipe.memory.streamed, recipe.optimizer.fused_backward
    trained = recipe.trains_denoiser
    gone = streamed_away(assembled, share, both_ways=trained and fused)
    if not share or not trained or recipe.full is None:
        return gone
    host = gone.host
    each = 2 if recipe.full.weights == "bf16" else 4
    return replace(
        gone,
        kind="trained",
        once=0,
        gradients=0 if fused else host,
        at_hand=0 if fused else assembled.largest * (2 if accumulated else 1),
        averages=host // each * 4 if training.averages else 0,
        kept_aside=host if training.kept_aside else 0,
        per_update=0 if fused else 2 * host,  # the weights with their gradients
    )


def streamed_away(assembled: Assembled, share: float, *, both_ways: bool = False) -> Away:
    """What it comes to that a share of the denoiser's weights is streamed."""
    if not share:
        return Away()
    ahead, blocks = assembled.ahead_sizes, assembled.block_sizes
    of_ahead, of_blocks = streamed_places(ahead, blocks, share)
    chosen = ([ahead[place] for place in of_ahead], [blocks[place] for place in of_blocks])
    host = sum(map(sum, chosen))
    return Away(
        host=host,
        slots=sum(
            max(sizes) * min(count, len(sizes))
            for sizes, count in zip(chosen, slots_for(both_ways=both_ways), strict=True)
            if sizes
        ),
        of_blocks=tuple(of_blocks),
        of_ahead=len(of_ahead) / max(1, len(ahead)),
        per_pass=host,
        once=sum(chosen[0]),  # frozen layers ahead of the blocks: no gradient goes through them
    )


def brought_for_previews(assembled: Assembled, recipe: Recipe) -> int:
    """Bytes of streamed blocks that stay on the device while previews are painted (see `Placed.brought`)."""
    share = recipe.previews.streamed
    if share is None or share >= recipe.memory.streamed:
        return 0
    ahead, blocks = assembled.ahead_sizes, assembled.block_sizes
    sizes = [blocks[place] for place in streamed_places(ahead, blocks, recipe.memory.streamed)[1]]
    brought = brought_places(sizes, sum(ahead) + sum(blocks), recipe.memory.streamed - share)
    return sum(sizes[place] for place in brought)


def without(phase: Phase, gone: Away) -> Phase:
    """A phase in which what is away is not on the device."""

    def left(held: Bytes) -> Bytes:
        found = held.plus({gone.kind: -gone.saved})
        if held["gradients"]:
            # as large a share of them is there as of all
            stay = 1 - gone.gradients / max(1, held["trained"])
            found = found.plus({"gradients": int(held["gradients"] * (stay - 1)) + gone.at_hand})
        if held["optimizer"]:
            found = found.plus({"optimizer": gone.visiting - gone.optimizer})
        averages = gone.averages + (gone.kept_aside if phase.name in SHOWING else 0)
        return found.plus({"averages": -min(averages, held["averages"])})

    return phase.holding(left)


def inputs_away(recomputed: Phase, assembled: Assembled, share: float) -> int:
    """Bytes that `memory.offload_activations` takes off the device, where `share` of the blocks is recomputed.

    `recomputed`: the step in which all are.
    """
    counts = [times + KEPT for times in assembled.left_out.values()]
    all_of_them = sum(count * size for count, size in zip(counts, recomputed.inputs, strict=True))
    return max(0, int(share * all_of_them) - VISITING * max(recomputed.inputs, default=0))


def without_inputs(phase: Phase, inputs: int, recomputed: Phase) -> Phase:
    """A step in which so many bytes of inputs of recomputed blocks wait elsewhere.

    `recomputed`: the step in which all of them are.
    """
    at_hand = max(_at_hand(phase), _at_hand(recomputed))

    def left(moment: Moment) -> Moment:
        if moment.kind not in PASSES:
            return moment
        waiting = max(0, moment.held["activations"] - at_hand)
        return replace(moment, held=moment.held.plus({"activations": -min(inputs, waiting)}))

    moments = tuple(map(left, phase.moments))
    return replace(phase, moments=moments, kept=phase.kept - inputs, away=inputs)


def _at_hand(step: Phase) -> int:
    """Bytes of activations in the backward pass beside those that waited for it."""
    backward = [moment.held["activations"] for moment in step.moments if moment.kind == "backward"]
    return max(0, max(backward, default=0) - step.kept)
