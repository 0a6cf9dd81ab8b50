"""What would help where no settings fit: the nearest changes, which are not for a plan to make."""

from __future__ import annotations

from collections.abc import Iterator

from velatura.planning.devices import GIB
from velatura.planning.estimate import Estimate

ENCODE_AHEAD = (
    "encode in the machine's own memory first: velatura cache build RECIPE --set training.device=cpu "
    "--set training.precision={precision}"
)
_REMEDIES = {
    "captions": 'memory.text_encoders = "cpu"',
    "latents": "encode them ahead, in the machine's own memory (velatura cache build), or a smaller data resolution",
    "loading": "memory.weights=full, or a machine with more memory",
    "export": 'ema.device = "cpu"',
    "preview": "smaller previews (previews.size), or none",
    "step": "a smaller data resolution, a smaller adapter.rank, fewer adapter.targets",
}


def remedies(estimate: Estimate, budget: int) -> Iterator[str]:
    """A line for each phase that is too large, those that need most first, and one for the machine's own memory."""
    for phase in estimate.too_large(budget):
        over = (estimate.occupied(phase) - budget) / GIB
        remedy = _REMEDIES[phase.name]
        if phase.name in ("step", "preview") and (fixed := _fixed(estimate)) > budget:
            remedy = f"{fixed / GIB:.1f} GiB are held all the time, so that smaller images are not enough"
        yield f"{phase.name}: {over:.1f} GiB too much; {remedy}"
    if not estimate.fits_host:
        needed, there = estimate.needed_of_host / GIB, (estimate.device.host or 0) / GIB
        yield f"the machine's memory: {needed:.1f} GiB are needed beside the device, and it has {there:.1f} GiB"


def _fixed(estimate: Estimate) -> int:
    """Bytes of the device that weights, trained values and their state take."""
    peak = estimate.step.peak
    return estimate.device.occupied(peak.total - peak["activations"] - peak["gradients"])
