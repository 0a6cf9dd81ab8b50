"""A budget with several processes: one of them plans, and all take what it chose."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from velatura.planning import deciding
from velatura.planning.deciding import EXCHANGED, decide
from velatura.planning.devices import GIB, KNOWN, Device, device_named
from velatura.planning.estimate import Estimator
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import read_recipe
from velatura.recipe.values import with_values
from velatura.training.distribution.launch import Launch
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
    """What the others measure of their machine may not count: some could hold other weights than the rest."""
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


def test_the_gpu_with_the_least_that_is_free_counts(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Device, int]] = []

    def planned(setup: Setup, device: Device, size: int, *rest: object) -> Recipe:
        seen.append((device, size))
        chosen = {"memory.streamed": 0.5, "memory.planned": ["memory.streamed"]}
        return with_values(setup.recipe, chosen)

    monkeypatch.setattr(deciding, "device_here", lambda device: KNOWN["4090"])
    monkeypatch.setattr(deciding, "_planned", planned)
    own = recipe(tmp_path, tiny_model, **SECTIONS)

    def decided(team: Others) -> Recipe:
        setup = SimpleNamespace(recipe=own, team=team, device=torch.device("cuda"), sharded=False)
        return decide(cast("Setup", setup), ["memory.streamed"], Log().events)

    assert decided(Others(0, 9 * GIB, 30 * GIB)).memory.streamed == 0.5
    ((device, size),) = seen
    assert size == 9 * GIB - EXCHANGED
    assert KNOWN["4090"].host is None
    assert device.host is None
    others = Others(2)
    answers = [[8 * GIB], [{"memory.streamed": 0.25, "memory.planned": ["memory.streamed"]}]]
    monkeypatch.setattr(others, "gathered", lambda value: answers.pop(0))
    taken = decided(others)
    assert (taken.memory.streamed, taken.memory.planned) == (0.25, ["memory.streamed"])
    assert len(seen) == 1
