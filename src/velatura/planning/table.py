"""A plan for people, in at most 80 columns, and for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from velatura.data.caches.cache_place import readable
from velatura.planning.choose import Plan
from velatura.planning.devices import GIB
from velatura.planning.estimate import Estimate
from velatura.planning.figures import enough, seconds, within
from velatura.planning.phases import Phase
from velatura.plural import counted

WIDTH = 80
COLUMNS = ("weights", "trained", "optim.", "grads", "ema", "activ.", "total", "device")
HALF = 0.5
WAITED = 0.05  # of the computation, that a step may wait for copies before they are what limits it
_RECOMPUTED = {False: "", True: ", blocks recomputed", "mlp": ", MLPs recomputed"}


def lines(plan: Plan) -> Iterator[str]:
    """The whole plan, line by line."""
    estimate = plan.estimate
    yield from _head(plan)
    yield ""
    yield f"{'GiB at the peak of':25}" + "".join(f"{name:>{_width(name)}}" for name in COLUMNS)
    for phase in estimate.phases:
        yield _row(phase, estimate)
    yield ""
    for name, text in (
        ("step", _step(estimate)),
        ("time", _time(estimate)),
        ("limit", _limit(estimate)),
        ("host", ", ".join(f"{name} {readable(size)}" for name, size in estimate.sizes.host.items() if size)),
        ("disk", ", ".join(_disk(estimate))),
    ):
        yield from _wrapped(name, text)
    for remark in estimate.work.remarks:
        yield from _wrapped("note", remark)
    yield ""
    yield from _verdict(plan)


def document(plan: Plan) -> dict[str, Any]:
    """All of it as JSON: bytes, seconds, FLOP."""
    estimate = plan.estimate
    return {
        "fits": plan.fits,
        "budget": plan.budget,
        "needed": estimate.needed,
        "needed_with_encoding_ahead": estimate.needed_ahead,
        "needed_as_written": plan.as_written.needed,
        "set": list(plan.sets),
        "advice": list(plan.advice),
        "device": {
            "name": estimate.device.name,
            "memory": estimate.device.memory,
            "free": estimate.device.free,
            "host": estimate.device.host,
            "flops": estimate.device.flops(estimate.work.setup.dtype),
            "bandwidth": estimate.device.bandwidth,
            "efficiency": estimate.device.efficiency,
        },
        "model": {"family": estimate.work.setup.info.family, "variant": estimate.work.setup.info.variant},
        "precision": str(estimate.work.setup.dtype).removeprefix("torch."),
        "trained_values": estimate.trained,
        "phases": [_phase(phase, estimate) for phase in estimate.phases],
        "passes_per_step": estimate.passes,
        "seconds_per_step": estimate.seconds,
        "copying_seconds_per_pass": estimate.copying,
        "copying_seconds_per_update": estimate.copying_of_update,
        "limit": _limit(estimate),
        "host": estimate.sizes.host,
        "needed_of_host": estimate.needed_of_host,
        "disk": estimate.sizes.disk,
        "remarks": estimate.work.remarks,
    }


def _head(plan: Plan) -> Iterator[str]:
    estimate = plan.estimate
    setup, training = estimate.work.setup, estimate.recipe.training
    dtype = str(setup.dtype).removeprefix("torch.")
    weights = estimate.recipe.memory.weights
    held = "" if weights == "full" else f" over {weights}"
    yield f"{setup.info.family} {setup.info.variant} on {estimate.device.name}, {dtype}{held}"
    yield from textwrap.wrap(f"trained: {estimate.report}, {estimate.trained:,} values", WIDTH)
    recomputed = _RECOMPUTED.get(training.checkpoint_blocks, ", some blocks recomputed")
    share = estimate.recipe.memory.streamed
    streamed = f", {share:.0%} of {_streamed(estimate)} streamed" if share else ""
    each = counted(estimate.passes, "pass", "passes")
    batch = f"{each} of {estimate.step.what} in a step{recomputed}{streamed}"
    yield from textwrap.wrap(batch, WIDTH)


def _streamed(estimate: Estimate) -> str:
    """What the streamed weights are."""
    return "trained weights" if estimate.recipe.trains_denoiser else "frozen weights"


def _row(phase: Phase, estimate: Estimate) -> str:
    peak = phase.peak
    weights = peak["denoiser"] + peak["autoencoder"] + peak["text encoders"]
    kinds = (peak["trained"], peak["optimizer"], peak["gradients"], peak["averages"], peak["activations"])
    sizes = (weights, *kinds, peak.total, estimate.occupied(phase))
    cells = (f"{_gib(size):>{_width(name)}}" for size, name in zip(sizes, COLUMNS, strict=True))
    return f"{phase.name:9}{phase.what:16}" + "".join(cells)


def _width(column: str) -> int:
    return max(6, len(column) + 1) if column != "weights" else 7


def _gib(size: int) -> str:
    if not size:
        return "-"
    return f"{size / GIB:.2f}" if size < 100 * GIB else f"{size / GIB:.0f}"


def _step(estimate: Estimate) -> str:
    step = estimate.step
    each = ", ".join(readable(size) for size in step.per_block)
    blocks = f"; {each} of them in a block of each kind" if each else ""
    return f"{readable(step.kept)} of activations wait for the backward pass{blocks}"


def _time(estimate: Estimate) -> str:
    step, training = estimate.step, estimate.recipe.training
    whole = estimate.seconds * training.steps
    share = f"{estimate.device.efficiency:.0%} of the peak" if not estimate.device.here else "measured speeds"
    return (
        f"{step.work.flops / 1e12:.3g} TFLOP and about {seconds(step.work.seconds)} per forward and backward, "
        f"{seconds(estimate.seconds)} per step, {seconds(whole)} for all steps ({share}, not compiled)"
    )


def _limit(estimate: Estimate) -> str:
    work = estimate.step.work
    if estimate.seconds > (1 + WAITED) * estimate.computing:
        what = "weights are streamed" if estimate.away.host else "averages and inputs of blocks travel"
        return f"the link to the machine's memory, over which {what}: larger batches make it worth more"
    share = work.bound_by_arithmetic / max(work.seconds, 1e-12)
    if share > HALF:
        return f"arithmetic, {share:.0%} of the time"
    return (
        f"memory bandwidth and the start of kernels, {1 - share:.0%} of the time: compile, or a larger batch"
    )


def _disk(estimate: Estimate) -> Iterator[str]:
    each = {"cached latents": estimate.sizes.per_image, "cached captions": estimate.sizes.per_text}
    for name, size in estimate.sizes.disk.items():
        yield f"{name} {readable(each[name])} each" if size is None else f"{name} {readable(size)}"


def _verdict(plan: Plan) -> Iterator[str]:
    estimate = plan.estimate
    needed = f"{enough(estimate.needed)}, in the phase '{estimate.highest.name}'"
    budget = enough(plan.budget) if plan.fits else within(plan.budget)
    if not plan.fits and estimate.fits_device(plan.budget):
        yield f"does not fit in the machine's memory, though in {budget} of the device: {needed}"
    elif not plan.fits:
        yield f"does not fit in {budget}: at least {needed}"
        if estimate.needed_ahead < estimate.needed and estimate.device.kind != "cpu":
            yield f"or {enough(estimate.needed_ahead)}, with encoding done ahead"
    elif estimate.needed > plan.budget:
        yield f"fits in {budget}, with encoding done ahead"
    else:
        yield f"fits in {budget}: {needed}"
    if plan.sets:
        yield f"with these changes ({enough(plan.as_written.needed)} as the recipe is written):"
        yield from (f"  --set {line}" for line in plan.sets)
    for line in plan.advice:
        yield from textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ")


def _wrapped(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{name:7}", subsequent_indent=" " * 7)


def _phase(phase: Phase, estimate: Estimate) -> dict[str, Any]:
    return {
        "name": phase.name,
        "what": phase.what,
        "peak": {kind: size for kind, size in phase.peak.items() if size},
        "total": phase.peak.total,
        "device": estimate.occupied(phase),
        "kept_for_backward": phase.kept,
        "kept_per_block": list(phase.per_block),
        "flops": phase.work.flops,
        "seconds": phase.work.seconds,
    }
