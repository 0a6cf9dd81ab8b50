"""How long a candidate's step takes beside that of the recipe as it is written, told without following it.

Its computation takes as much longer as its options say. What it keeps in the machine's memory crosses the link
meanwhile, so the slower of the two sets the pace.
"""

from __future__ import annotations

from dataclasses import dataclass

from velatura.planning.devices import Device
from velatura.planning.estimate import Estimate
from velatura.recipe.recipe import Recipe

STORED = {
    "fp8": 1.0,
    "int8": 1.0,
    "nf4": 0.56,
}  # bytes of a frozen weight; else those of the computation's dtype
AVERAGES = {"adamw": 8.0, "adamw8bit": 2.0, "muon": 4.0}  # bytes for a trained value that can be offloaded


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Of one recipe on one device."""

    device: Device
    computing: float  # seconds of a whole optimizer step without anything that makes it slower
    blocks: int  # values of the weights that may be streamed
    trained: int  # values

    @staticmethod
    def of(estimate: Estimate, slower: float) -> Pace:
        """From the needs of the recipe as it is written, whose options make it so much `slower` already."""
        recipe, device = estimate.recipe, estimate.device
        return Pace(
            device=device,
            computing=estimate.step.work.seconds * recipe.training.accumulate / slower,
            blocks=int(estimate.streamable / _each(recipe, device)),
            trained=estimate.trained,
        )

    def seconds(self, recipe: Recipe, slower: float) -> float:
        """Of a step of a variant of the recipe, which its options make so much `slower`."""
        return max(self.computing * slower, self._crossing(recipe) / self.device.link)

    def _crossing(self, recipe: Recipe) -> float:
        """Bytes that come over the link: streamed weights forwards, backwards and in an update, averages in that."""
        streamed = recipe.memory.streamed * self.blocks * _each(recipe, self.device)
        passes = 2.0 * recipe.training.accumulate
        if recipe.full is not None and not recipe.optimizer.fused_backward:
            passes += 1
        held = AVERAGES.get(recipe.optimizer.kind, 0.0) if recipe.optimizer.offload else 0.0
        return passes * streamed + held * self.trained


def _each(recipe: Recipe, device: Device) -> float:
    """Bytes of a weight of the denoiser's blocks."""
    if recipe.full is not None and "denoiser" in recipe.full.parts:
        return 2.0 if recipe.full.weights == "bf16" else 4.0
    return STORED.get(recipe.memory.weights, device.dtype(recipe.training.precision).itemsize)
