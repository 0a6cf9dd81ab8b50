"""What would help where no settings fit: the nearest changes, which are not for a plan to make."""

from __future__ import annotations

from collections.abc import Iterator

from velatura.data.caches.cache_place import readable
from velatura.planning.estimate import Estimate
from velatura.planning.figures import enough

ENCODE_AHEAD = (
    "encode in the machine's own memory first: velatura cache build RECIPE --set training.device=cpu "
    "--set training.precision={precision}"
)
_REMEDIES = {
    "captions": 'memory.text_encoders = "cpu"',
    "latents": "encode them ahead, in the machine's own memory (velatura cache build), or a smaller data resolution",
    "loading": "the weights are loaded in full first; a machine with more memory",
    "export": 'ema.device = "cpu"',
    "preview": "smaller previews (previews.size), or none",
    "step": "a smaller data resolution, a smaller adapter.rank, fewer adapter.targets",
    "step with [full]": "a smaller data resolution, or an [adapter] in place of [full]",
}
_ON_THE_CPU = {  # whose memory is the machine's
    "captions": "a machine with more memory, or captions that are cached on another one",
    "latents": "a smaller data resolution",
    "export": "no [ema]",
}


def remedies(estimate: Estimate, budget: int) -> Iterator[str]:
    """A line for each phase that is too large, those that need most first, and one for the machine's own memory."""
    known = _REMEDIES if estimate.device.kind != "cpu" else {**_REMEDIES, **_ON_THE_CPU}
    full = estimate.recipe.full is not None
    for phase in estimate.too_large(budget):
        over = readable(estimate.occupied(phase) - budget)
        remedy = known["step with [full]" if phase.name == "step" and full else phase.name]
        if phase.name in ("step", "preview") and (fixed := _fixed(estimate)) > budget:
            remedy = f"{readable(fixed)} are held all the time, so that smaller images are not enough"
        yield f"{phase.name}: {over} too much; {remedy}"
    if not estimate.fits_host:
        needed, there = enough(estimate.needed_of_host), readable(estimate.device.host or 0)
        yield f"the machine's memory: {needed} are needed beside the device, and it has {there}"


def _fixed(estimate: Estimate) -> int:
    """Bytes of the device that weights, trained values and their state take."""
    peak = estimate.step.peak
    return estimate.device.occupied(peak.total - peak["activations"] - peak["gradients"])
