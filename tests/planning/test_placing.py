"""What a budget decides of painting."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from velatura.errors import BudgetError, RecipeError
from velatura.planning.devices import with_host
from velatura.planning.painting import Painting
from velatura.planning.placing import _refusal, choose, decide, fit, placements, stated
from velatura.sampling.generate import generate
from velatura.sampling.order import Order
from velatura.sampling.pipeline import Pipeline
from velatura.sampling.placing import Job, Placement
from velatura.sampling.png import read_record

from ..tiny import Log
from .test_painting import Start, order, painted, plan

__all__ = ["order", "plan"]  # fixtures
MIB = 2**20


def chosen(painting: Painting, budget: int, **own: Any) -> Placement | None:
    """With what is stated in `own`."""
    return choose(painting, replace(stated(painting.job), **own), frozenset(own), budget)


def needed(painting: Painting, **placement: Any) -> int:
    return painting.needed(Placement(**placement))


def test_what_fits_stays_as_it_is(plan: Start) -> None:
    painting = plan()
    assert chosen(painting, needed(painting)) == Placement()


def test_what_the_machine_has_no_memory_for(order: Order, plan: Start) -> None:
    """What is streamed waits there; text encoders that run there are there, too."""
    painting = plan()
    own, away = Placement(), Placement(turns=True, text_encoders="cpu", streamed=1.0)
    budget = needed(painting, **asdict(away))
    assert painting.needed_of_host(own) < painting.needed_of_host(away)
    painting.device = with_host(painting.device, painting.needed_of_host(away))
    assert chosen(painting, budget) is not None
    painting.device = with_host(painting.device, painting.needed_of_host(own))
    assert choose(painting, away, frozenset(asdict(away)), budget) is None
    message = _refusal(painting, away, budget)
    assert re.match(
        r"painting fits in .* of 4090, but not in the machine's memory: with .* it takes 2\.6 GiB", message
    )


@pytest.mark.parametrize("device", ["4090", "cpu"])
def test_what_is_chosen_fits_and_what_costs_less_does_not(plan: Start, device: str) -> None:
    painting = plan(device)
    choices = placements(painting, Placement(), frozenset())
    assert choices[0] == Placement()
    least = min(map(painting.needed, choices))
    for budget in range(least, painting.needed(Placement()) + MIB // 10, MIB // 10):
        best = chosen(painting, budget)
        assert best is not None
        assert painting.needed(best) <= budget
        assert all(painting.needed(one) > budget for one in choices[: choices.index(best)])
    assert chosen(painting, least - 1) is None


def test_pictures_change_last(plan: Start) -> None:
    choices = placements(plan(), Placement(), frozenset())
    assert len(choices) == 2 * 2 * 3 * 5 * 2
    narrow = [one.weights == "fp8" for one in choices]
    assert narrow == sorted(narrow)


def test_the_cpu_has_nothing_to_stream_from(plan: Start) -> None:
    choices = placements(plan("cpu"), Placement(), frozenset())
    assert {one.streamed for one in choices} == {0.0}
    assert {one.text_encoders for one in choices} == {"auto"}


@pytest.mark.parametrize(
    "own",
    [
        {"streamed": 0.3},
        {"weights": "int8"},
        {"weights": "full"},
        {"autoencoder": "whole"},
        {"text_encoders": "auto"},
    ],
    ids=str,
)
def test_what_is_stated_stays(plan: Start, own: dict[str, Any]) -> None:
    painting = plan()
    (name, value), start = *own.items(), replace(Placement(), **own)
    assert {getattr(one, name) for one in placements(painting, start, frozenset(own))} == {value}


def test_a_picture_of_a_budget_is_repeated_without_it(order: Order, tmp_path: Path) -> None:
    """And the option of a budget that is kept is written as if it had been given by hand."""
    from velatura.planning.devices import device_named

    jobs: list[Job] = []
    list(generate(order, Log().events, lambda job, events: jobs.append(job) or Placement()))  # type: ignore[func-returns-value]
    painting = Painting(jobs[0], device_named("cpu"))
    budget = needed(painting, turns=True) - 1
    log = Log()
    (first,) = generate(order, log.events, partial(decide, budget=budget))
    _, facts = read_record(first.path)
    best = chosen(painting, budget)
    assert best is not None
    assert (facts["weights"], facts["autoencoder"]) == (best.weights, best.autoencoder) != ("full", "auto")
    assert "planned for 0.9 GiB of cpu: " in log.texts
    assert "(the picture differs a little)" in log.texts
    (again,) = generate(Order(out=tmp_path / "y.png", like=first.path, device="cpu"), Log().events)
    assert again.path.read_bytes() == first.path.read_bytes()


def test_a_pipeline_is_fit_before_it_loads(order: Order, plan: Start) -> None:
    """As `generate --memory` places the same request."""
    assert isinstance(order.model, str)
    painting, log = plan("cpu"), Log()
    budget, wanted = needed(painting, turns=True), painting.job.request
    pipeline = Pipeline.load(order.model, device="cpu", precision="bf16", events=log.events)
    assert fit(pipeline, f"{budget / MIB + 0.01:.2f}MiB", wanted) == chosen(painting, budget)
    assert pipeline.held.turns is True
    assert not pipeline.held.keeps_all
    assert "the text encoders released before the denoiser is loaded; it needs at most" in log.texts
    with pytest.raises(BudgetError, match=r"painting does not fit in 1\.0 MiB of cpu"):
        fit(pipeline, "1MiB", wanted)
    pipeline.held.need("autoencoder")
    with pytest.raises(RecipeError, match="has loaded autoencoder; fit a new one"):
        fit(pipeline, "4GiB", wanted)


def test_a_budget_that_cannot_be_met_says_what_is_needed(order: Order) -> None:
    with pytest.raises(BudgetError) as refused:
        list(generate(order, Log().events, partial(decide, budget=MIB)))
    message = str(refused.value)
    assert message.startswith("painting does not fit in 1.0 MiB of cpu: it needs 0.9 GiB")
    for word in (
        "--weights fp8",
        "decoding: 0.8 GiB too much",
        "a smaller --size or --batch",
    ):
        assert word in message
    assert refused.value.exit_code == 3
    assert not order.out.exists()


def test_a_refusal_says_what_else_would_do(order: Order, plan: Start) -> None:
    painting = plan("cpu", request={"steps": 2})
    budget = needed(painting, turns=True) - 1
    own = replace(order, weights="full", autoencoder="whole")
    with pytest.raises(BudgetError, match="it would fit with .*--"):
        list(generate(own, Log().events, partial(decide, budget=budget)))


@pytest.mark.slow
def test_the_measured_peak_is_under_the_budget(order: Order, plan: Start) -> None:
    from velatura.planning.sizes import PROGRAM

    painting = plan("cpu", request={"steps": 2, "batch": 8})
    budget = needed(painting) - MIB // 4
    best = chosen(painting, budget)
    assert best not in (None, Placement())
    assert best is not None
    _, measured = painted(order, best, batch=8)
    assert measured <= budget - PROGRAM
    assert painted(order, Placement(), batch=8)[1] > budget - PROGRAM
