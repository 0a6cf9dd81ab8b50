"""What a plan of painting says beside what the allocator counts while pictures are painted on the CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from velatura.planning.devices import KNOWN, device_named
from velatura.planning.measuring import _highest
from velatura.planning.painting import Painting
from velatura.sampling.generate import generate
from velatura.sampling.order import Order
from velatura.sampling.pipeline import Pipeline
from velatura.sampling.placing import Job, Placement
from velatura.sampling.request import Request

from ..tiny import Log

Start = Callable[..., Painting]
LARGE = {"size": (128, 128), "precision": "fp32"}


@pytest.fixture
def order(tmp_path: Path, flux: Path) -> Order:
    return Order(
        out=tmp_path / "x.png", model=str(flux), prompt="a red cube", device="cpu", precision="bf16", size=(64, 64),
        steps=2,
    )  # fmt: skip


def painted(order: Order, placement: Placement, **changes: Any) -> tuple[Painting, int]:
    """The plan of an order, and the most that it takes."""
    plans: list[Painting] = []

    def planner(job: Job, events: object) -> Placement:
        plans.append(Painting(job, device_named("cpu")))
        return placement

    order = Order(**{**vars(order), **changes})
    list(generate(order, Log().events, planner))  # with what is only made once
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as done:
        list(generate(order, Log().events, lambda job, events: placement))
    return plans[0], _highest(done)


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("placement", "changes", "highest"),
    [
        (Placement(turns=True), {}, "decoding"),
        slow(Placement(), {**LARGE, "batch": 8, "cfg": 2.0}, "painting"),
        slow(Placement(), {**LARGE, "batch": 12, "count": 2}, "painting"),
        slow(Placement(turns=True, weights="fp8"), {**LARGE, "batch": 12}, "painting"),
        slow(Placement(autoencoder="sliced"), {"size": (256, 256)}, "decoding"),
        slow(Placement(autoencoder="tiled"), {"size": (192, 256)}, "decoding"),
        slow(Placement(), {"precision": "fp32"}, "decoding"),
    ],
    ids=str,
)
def test_the_peak_within_5_percent(
    order: Order, placement: Placement, changes: dict[str, Any], highest: str
) -> None:
    plan, measured = painted(order, placement, **changes)
    assert plan.highest(placement).name == highest
    assert plan.highest(placement).peak.total == pytest.approx(measured, rel=0.05)


@pytest.fixture
def plan(flux: Path) -> Start:
    """A plan for a device, by what differs from one small picture."""

    def made(device: str = "4090", **changes: Any) -> Painting:
        pipeline = Pipeline.load(str(flux), device="cpu", precision="bf16")
        request = pipeline.complete(Request(prompt="a", width=64, height=64, **changes.pop("request", {})))
        job: dict[str, Any] = {
            "count": 1,
            "changes_picture": False,
            "loras": (),
            "stated": frozenset(),
            **changes,
        }
        known = KNOWN.get(device) or device_named(device)
        return Painting(Job(held=pipeline.held, request=request, **job), known)

    return made


def kinds(painting: Painting, placement: Placement) -> dict[str, set[str]]:
    """What is held in each phase, besides activations."""
    return {
        phase.name: {kind for kind, size in phase.peak.items() if size and kind != "activations"}
        for phase in painting.phases(placement)
    }


def test_parts_that_take_turns_are_not_there_together(plan: Start) -> None:
    painting = plan()
    every = {"denoiser", "autoencoder", "text encoders"}
    assert kinds(painting, Placement()) == {
        "prompt": {"text encoders"}, "painting": {"denoiser", "text encoders"}, "decoding": every
    }  # fmt: skip
    assert kinds(painting, Placement(turns=True)) == {
        "prompt": {"text encoders"}, "painting": {"denoiser"}, "decoding": {"denoiser", "autoencoder"}
    }  # fmt: skip
    assert "prompt" not in kinds(painting, Placement(text_encoders="cpu"))


def test_the_autoencoder_is_there_from_the_first_picture_on(plan: Start) -> None:
    assert "autoencoder" in kinds(plan(count=2), Placement())["painting"]
    changing = kinds(plan(changes_picture=True), Placement(turns=True))
    assert changing["encoding"] == {"autoencoder"}
    assert "autoencoder" in changing["painting"]


def test_streamed_weights_are_not_on_the_device(plan: Start) -> None:
    painting = plan()
    whole = painting.phases(Placement())[1].peak["denoiser"]
    half, none = (painting.phases(Placement(streamed=share))[1].peak["denoiser"] for share in (0.5, 1.0))
    assert whole > half > none > 0


def test_weights_in_8_bits_are_loaded_in_full_on_the_cpu(plan: Start) -> None:
    narrow = Placement(weights="fp8")
    here, elsewhere = plan("cpu"), plan("4090")
    phases = {phase.name: phase.peak["denoiser"] for phase in here.phases(narrow)}
    assert phases["loading"] == here.phases(Placement())[1].peak["denoiser"] > phases["painting"]
    assert "loading" not in kinds(elsewhere, narrow)


def test_a_lora_is_counted(plan: Start, flux: Path, tmp_path: Path) -> None:
    from ..sampling.test_generate import lora

    file = lora(flux, tmp_path / "a.safetensors", seed=1)
    bare, worn = (plan(loras=files).phases(Placement()) for files in ((), (file,)))
    stored = file.stat().st_size
    # of float32 in the file, bf16 here; the file has names too
    assert worn[1].peak["denoiser"] - bare[1].peak["denoiser"] == pytest.approx(stored / 2, rel=0.3)
    assert "denoiser" in {kind for kind, size in worn[0].peak.items() if size}  # put on at once


def test_both_guidances_and_a_batch_take_more(plan: Start) -> None:
    one, two, four = (
        plan(request=request).phases(Placement())[1].peak["activations"]
        for request in ({}, {"cfg": 2.0}, {"cfg": 2.0, "batch": 2})
    )
    assert one < two < four


def test_what_is_known_of_all_times_is_counted(plan: Start) -> None:
    two, eight = (plan(request={"steps": steps})._steered for steps in (2, 8))
    assert eight == 4 * two > 0


def test_no_values_are_made(plan: Start) -> None:
    painting = plan()
    painting.needed(Placement())
    parts = painting.job.held.parts
    assert parts.denoiser is parts.autoencoder is parts.text_encoders is None
    assert torch.is_grad_enabled()
