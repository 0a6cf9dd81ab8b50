"""What a step of a real training holds in memory, by the allocator's own account: what plans are checked against."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from velatura.events import Event, Events, StepFinished
from velatura.recipe.recipe import Recipe
from velatura.training.run import train


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Bytes of live tensors between two steps, and at the peak of the step that follows."""

    resident: int
    peak: int


def measure(recipe: Recipe, base: Path) -> Measured:
    """Train for two steps on the CPU and follow the second one. Raises as `train` does."""
    training = recipe.training.model_copy(update={"steps": 2, "device": "cpu", "compile": False})
    meter = _Meter()
    train(recipe.model_copy(update={"training": training}), base, events=Events(meter))
    return Measured(resident=meter.resident, peak=meter.resident + meter.grown)


class _Meter:
    """Listens to a run and follows the allocator from the end of step 1 to the end of step 2."""

    def __init__(self) -> None:
        self._others = live_bytes()  # tensors of whoever else is in this process
        self.resident = 0
        self.grown = 0
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StepFinished):
            return
        if event.step == 1:
            self.resident = live_bytes() - self._others
            self._profile.start()
        elif event.step == 2:
            self._profile.stop()
            self.grown = _highest(self._profile)


def grown(run: Callable[[], object]) -> int:
    """The most bytes that a call holds on the CPU beside what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as followed:
        run()
    return _highest(followed)


def live_bytes() -> int:
    """Of all tensors that Python knows; storages that several share count once."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, torch.nn.Parameter) and not thing.is_meta:
            storage = thing.untyped_storage()
            found[storage._cdata] = storage.nbytes()
    return sum(found.values())


def _highest(done: profile) -> int:
    """The most that allocations were ahead of releases."""
    assert done.profiler is not None
    assert done.profiler.kineto_results is not None
    now = most = 0
    for event in done.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()  # type: ignore[attr-defined]
            most = max(most, now)
    return most
