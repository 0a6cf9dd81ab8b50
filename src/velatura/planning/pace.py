"""How long a candidate's step takes beside that of the recipe as it is written, told without following it.

Its computation takes as much longer as its options say; in more passes, as much as following those has shown. What it
keeps in the machine's memory crosses the link meanwhile, so the slower of the two sets the pace, of the passes and of
the update after them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from velatura.placement.precision.quantised import BYTES
from velatura.planning.devices import Device
from velatura.planning.estimate import Estimate
from velatura.planning.levers import RECOMPUTED_IN_FULL, rung
from velatura.recipe.recipe import Recipe
from velatura.training.health.splitting import passes

AVERAGES = {"adamw": 8.0, "adamw8bit": 2.0, "muon": 4.0}  # bytes for a trained value that can be offloaded


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Of one recipe on one device."""

    device: Device
    computing: float  # seconds of the passes of a step without anything that makes them slower
    update: float  # and of its update
    blocks: int  # values of the weights that may be streamed
    ahead: int  # of these, those of layers that run ahead of their block
    trained: int  # values
    batch: int  # images
    in_passes: Mapping[int | None, float] = field(
        default_factory=dict
    )  # how much longer, by memory.micro_batch

    @staticmethod
    def of(estimate: Estimate, slower: float, in_passes: Mapping[int | None, float]) -> Pace:
        """From the needs of the recipe as it is written, whose options make it so much `slower` already."""
        recipe, device = estimate.recipe, estimate.device
        slower *= _recomputed_too(recipe)
        each = _each(recipe, device)
        return Pace(
            device=device,
            computing=estimate.computing_of_passes / slower,
            update=estimate.step.update.seconds,
            blocks=int(estimate.streamable / each),
            ahead=int(estimate.ahead / each),
            trained=estimate.trained,
            batch=max(shape.count for shape in estimate.work.shapes),
            in_passes=in_passes,
        )

    def seconds(self, recipe: Recipe, slower: float) -> float:
        """Of a step of a variant of the recipe, which its options make so much `slower`."""
        slower *= _recomputed_too(recipe) * self.in_passes.get(recipe.memory.micro_batch, 1.0)
        passes, update = (crossing / self.device.link for crossing in self._crossing(recipe))
        return max(self.computing * slower, passes) + max(self.update, update)

    def _crossing(self, recipe: Recipe) -> tuple[float, float]:
        """Bytes that come over the link in the passes of a step, and in an update after them.

        Streamed weights come forwards and backwards, and with their gradients for an update; averages come for that.
        """
        streamed = recipe.memory.streamed * self.blocks  # those of layers ahead of their blocks first
        forwards = recipe.training.accumulate * passes(self.batch, recipe.memory.micro_batch)
        values, updated = 2.0 * forwards * streamed, 0.0
        fused = recipe.optimizer.fused_backward
        if not recipe.trains_denoiser:  # then no gradient goes through layers ahead of their blocks
            values -= forwards * min(streamed, self.ahead)
        elif not fused:
            values += (forwards - 1) * streamed  # gradients of earlier passes
            updated = 2 * streamed
        held = AVERAGES.get(recipe.optimizer.kind, 0.0) if recipe.optimizer.offload else 0.0
        each = _each(recipe, self.device)
        in_passes, after = values * each, updated * each + held * self.trained
        return (in_passes + after, 0.0) if fused else (in_passes, after)


def _each(recipe: Recipe, device: Device) -> float:
    """Bytes of a weight of the denoiser's blocks."""
    if recipe.full is not None and recipe.trains_denoiser:
        return 2.0 if recipe.full.weights == "bf16" else 4.0
    return BYTES.get(recipe.memory.weights, device.dtype(recipe.training.precision).itemsize)


def _recomputed_too(recipe: Recipe) -> float:
    """What it costs beside `checkpoint_blocks` that trained blocks are recomputed where they are streamed."""
    if not recipe.trains_denoiser:
        return 1.0
    policy, every_second = recipe.training.checkpoint_blocks, 2
    fewer = not isinstance(policy, (bool, str))
    own, whole = (
        RECOMPUTED_IN_FULL[rung(RECOMPUTED_IN_FULL, value)][1]
        for value in (every_second if fewer else policy, True)
    )
    return max(own, 1 + recipe.memory.streamed * (whole - 1)) / own
