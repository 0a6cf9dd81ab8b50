"""A budget with several processes: one of them plans, and all take what it chose."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest
import torch

from velatura.events import Events
from velatura.planning import deciding
from velatura.planning.deciding import EXCHANGED, decide
from velatura.planning.devices import GIB, KNOWN, Device, device_named, with_host
from velatura.planning.estimate import Estimator
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import read_recipe
from velatura.training.distribution.launch import Launch
from velatura.training.planned import with_plan
from velatura.training.setup import Setup

from ...tiny import Log, recipe
from .conftest import Start

MIB = 2**20
SECTIONS: dict[str, Any] = {
    "training": {"steps": 2, "batch_size": 1, "precision": "fp32"},
    "previews": {"prompts": []},
    "data": {"resolution": 256},
}


def test_what_is_chosen_holds_for_all(together: Start, tmp_path: Path, tiny_model: Path) -> None:
    """It is written into the run's recipe, and the results are those of a run without it."""
    free = recipe(tmp_path, tiny_model, **SECTIONS)
    needed = Estimator.of_recipe(free, tmp_path, device_named("cpu")).of(free).needed
    several = together(2, **SECTIONS, memory={"budget": f"{needed // MIB - 1}MiB"})
    assert several.codes == [0, 0], several.said
    assert read_recipe(several.folder / "recipe.toml").recipe.memory.planned
    assert several.losses == pytest.approx(together(2, into="unplanned", **SECTIONS).losses, abs=1e-5)


class Others:
    """A process among four, two on each machine, and what all of them would gather."""

    size, alone = 4, False

    def __init__(self, rank: int, *gathered: Any) -> None:
        self.launch = Launch(rank=rank, size=4, local_rank=rank % 2, local_size=2)
        self.leads = rank == 0
        self._gathered = list(gathered)

    def gathered(self, value: Any) -> list[Any]:
        return [value, *self._gathered] if self.leads else [*self._gathered, value]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Device, int]]:
    """For what plans were made; each streams half."""
    seen: list[tuple[Device, int]] = []

    def plan(setup: Setup, device: Device, size: int, *rest: object) -> dict[str, Any]:
        seen.append((device, size))
        return {"memory.streamed": 0.5, "memory.planned": ["memory.streamed"]}

    monkeypatch.setattr(deciding, "device_here", lambda device: with_host(KNOWN["4090"], 64 * GIB))
    monkeypatch.setattr(deciding, "_planned", plan)
    return seen


def decided(team: Others, own: Recipe) -> Recipe:
    setup = SimpleNamespace(recipe=own, team=team, device=torch.device("cuda"), sharded=False)
    return decide(cast("Setup", setup), ["memory.streamed"], Log().events)


@pytest.mark.parametrize(("budget", "size"), [(None, 9 * GIB), ("12GiB", 12 * GIB)])
def test_the_leader_plans_for_the_gpu_with_the_least_and_its_share_of_the_machine(
    tmp_path: Path, tiny_model: Path, planned: list[tuple[Device, int]], budget: str | None, size: int
) -> None:
    own = recipe(tmp_path, tiny_model, **SECTIONS, memory={"budget": budget})
    assert decided(Others(0, 9 * GIB, 30 * GIB), own).memory.streamed == 0.5
    ((device, found),) = planned
    assert found == size - EXCHANGED
    assert device.host == 32 * GIB


def test_the_others_take_what_it_chose(
    tmp_path: Path, tiny_model: Path, planned: list[tuple[Device, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Others(2)
    answers = [[8 * GIB], [{"memory.streamed": 0.25, "memory.planned": ["memory.streamed"]}]]
    monkeypatch.setattr(other, "gathered", lambda value: answers.pop(0))
    taken = decided(other, recipe(tmp_path, tiny_model, **SECTIONS))
    assert (taken.memory.streamed, taken.memory.planned) == (0.25, ["memory.streamed"])
    assert not planned


@pytest.mark.parametrize("size", [1, 2])
def test_nothing_is_chosen_that_several_processes_do_not_have(
    tmp_path: Path, tiny_model: Path, size: int
) -> None:
    """Of weights that all of them hold and train, which another optimizer than AdamW wants whole."""
    own = recipe(tmp_path, tiny_model, **SECTIONS, full={}, optimizer={"kind": "muon"})
    team = SimpleNamespace(alone=size == 1)
    setup = SimpleNamespace(recipe=own, team=team, sharded=False, folder=None)
    asked: list[str] = []

    def planner(setup: Any, keys: Collection[str], events: Events) -> Recipe:
        asked.extend(keys)
        return own

    with patch("velatura.training.planned.replace", lambda setup, **changes: setup):
        with_plan(cast("Setup", setup), planner, Log().events, resumed=False)
    assert "training.checkpoint_blocks" in asked
    assert ("memory.streamed" in asked, "optimizer.offload" in asked) == (
        (True, True) if size == 1 else (False, False)
    )
