"""How a model's parts are held while it paints within a budget: what the user leaves open, or why nothing fits.

First what changes no more than the last bits: turns, places, pieces, streaming; weights in 8 bits last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from velatura.data.caches.cache_place import readable
from velatura.data.progress import phase
from velatura.errors import BudgetError, RecipeError
from velatura.events import Events
from velatura.interfaces import PARTS
from velatura.planning.devices import device_here
from velatura.planning.figures import enough, within
from velatura.planning.levers import SHARES
from velatura.planning.painting import Painting
from velatura.planning.sizes import occupied, planned_line
from velatura.recipe.byte_sizes import size_in_bytes
from velatura.sampling.pipeline import Pipeline
from velatura.sampling.placing import Job, Placement, place_by
from velatura.sampling.request import Request

Ladder = Sequence[tuple[Any, float]]  # values and their factors of time

STREAMED = 0.25  # more time, at most, for weights that come over the link
NARROWED = 10.0  # weights that lose their exactness: the last
SHOWN = {
    "turns": "the text encoders released before the denoiser is loaded",
    "weights": "--weights",
    "streamed": "--streamed",
    "text_encoders": "--text-encoders",
    "autoencoder": "--autoencoder",
}


def decide(job: Job, events: Events, *, budget: int) -> Placement:
    """The placement that costs least of those that fit a budget in bytes, with what the user stated.

    Raises BudgetError that says what is needed.
    """
    with phase(events, "plan", 0):
        painting = Painting(job, device_here(job.held.device))
        own = stated(job)
        best = choose(painting, own, job.stated, budget)
        if best is None:
            raise BudgetError(_refusal(painting, own, budget))
        needed, at = painting.needed(best), painting.highest(best).name
    events.notice(planned_line(painting.device, budget, list(_changes(own, best)), needed, at))
    return best


def fit(
    pipeline: Pipeline,
    memory: str,
    request: Request,
    *,
    count: int = 1,
    image: bool = False,
    loras: Sequence[Path] = (),
) -> Placement:
    """Let a Pipeline that has loaded nothing yet hold its parts so that painting `request` takes at most "12GiB", say.

    `count`: of such requests, one after another; `image`: they start from a picture; `loras`: files that are added
    before the first one. What the pipeline was made with is changed only into what takes less. Returns what was
    chosen. Raises BudgetError that says what is needed, RecipeError for a pipeline that has loaded a part.
    """
    held = pipeline.held
    if there := [name for name in PARTS if held.parts.modules(name)]:
        raise RecipeError(
            f"the pipeline has loaded {', '.join(there)}; fit a new one, before it paints or takes a LoRA"
        )
    job = Job(
        held=held,
        request=pipeline.complete(request),
        count=count,
        changes_picture=image,
        loras=tuple(map(Path, loras)),
        stated=frozenset(),
    )
    chosen = decide(job, held.events, budget=size_in_bytes(memory))
    place_by(held, chosen)
    return chosen


def stated(job: Job) -> Placement:
    """What the user said, and the defaults."""
    held = job.held
    return Placement(
        turns=False,
        weights=held.weights,
        streamed=held.streamed,
        text_encoders=held.text_encoders,
        autoencoder=held.parts.pieces,
    )


def choose(painting: Painting, own: Placement, fixed: frozenset[str], budget: int) -> Placement | None:
    """The cheapest placement that fits; None where there is none. `fixed`: fields of `own` that stay."""
    return next((one for one in placements(painting, own, fixed) if painting.fits(one, budget)), None)


def placements(painting: Painting, own: Placement, fixed: frozenset[str]) -> list[Placement]:
    """All that may be chosen, the cheapest first: that is `own`."""
    ladders = [
        [(name, value, cost) for value, cost in (ladder[:1] if name in fixed else ladder)]
        for name, ladder in _ladders(painting, own).items()
    ]
    ways = sorted(product(*ladders), key=lambda way: prod(cost for *_, cost in way))
    return [Placement(**{name: value for name, value, _ in way}) for way in ways]


def _ladders(painting: Painting, own: Placement) -> dict[str, Ladder]:
    """For each field of Placement its own value, and what takes less on this device."""
    kind = painting.device.kind
    on_cuda = kind == "cuda"
    frugal: dict[str, Ladder] = {
        "turns": [(True, 1.01)],
        "text_encoders": [("cpu", 1.05)] if on_cuda else [],
        "autoencoder": [("sliced", 1.02), ("tiled", 1.1)] if painting.in_pieces else [],
        "streamed": [(share, 1 + STREAMED * share) for share in SHARES if on_cuda and share > own.streamed],
        "weights": [("fp8", NARROWED)] if own.weights == "full" and kind != "mps" else [],
    }
    return {name: _from(getattr(own, name), ladder) for name, ladder in frugal.items()}


def _from(own: Any, frugal: Ladder) -> Ladder:
    """A value, and what takes less than it."""
    values = [value for value, _ in frugal]
    start = values.index(own) + 1 if own in values else 0
    return [(own, 1.0), *frugal[start:]]


def _changes(own: Placement, chosen: Placement) -> Iterator[str]:
    """What was chosen, as options; what changes a picture says so."""
    before = asdict(own)
    for name, value in asdict(chosen).items():
        if value == before[name]:
            continue
        option = SHOWN[name] if name == "turns" else f"{SHOWN[name]} {value}"
        yield f"{option} (the picture differs a little)" if name == "weights" else option


def _refusal(painting: Painting, own: Placement, budget: int) -> str:
    """Why the job does not fit, and what would."""
    allowed = placements(painting, own, painting.job.stated)
    least = min(allowed, key=painting.needed)
    if nearest := next((one for one in allowed if painting.needed(one) <= budget), None):
        return (
            f"painting fits in {within(budget)} of {painting.device.name}, but not in the machine's memory: with "
            f"{', '.join(_changes(own, nearest))} it takes {enough(painting.needed_of_host(nearest))} of that, and "
            f"there are {readable(painting.device.host or 0)}"
        )
    left = ", ".join(_changes(own, least))
    lines = [
        f"painting does not fit in {within(budget)} of {painting.device.name}: it needs "
        f"{enough(painting.needed(least))}" + (f", with {left}" if left else "")
    ]
    needs = {phase.name: occupied(painting.device, phase.peak.total) for phase in painting.phases(least)}
    lines += [f"{name}: {readable(need - budget)} too much" for name, need in needs.items() if need > budget]
    if (wider := choose(painting, own, frozenset(), budget)) is not None:
        lines.append(f"it would fit with {', '.join(_changes(own, wider))}")
    else:
        lines.append("a smaller --size or --batch takes less")
    return "\n  ".join(lines)
