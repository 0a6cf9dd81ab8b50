"""What a budget decides of a run, and that it stays so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from velatura.errors import BudgetError, RecipeError
from velatura.planning import deciding
from velatura.planning.deciding import decide
from velatura.planning.devices import device_named
from velatura.planning.estimate import Estimator
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import read_recipe
from velatura.training.planned import Planner, as_planned
from velatura.training.run import Outcome, train
from velatura.training.states.resuming import Resume

from ..tiny import Log, recipe
from .conftest import sections

Start = Callable[..., tuple[Outcome, Log]]
MIB = 2**20


@pytest.fixture
def start(tmp_path: Path, photos: Path, flux: Path) -> Start:
    """Train for two steps by plain tables, without previews."""

    def begin(
        *, planner: Planner | None = decide, resume: bool = False, dry_run: bool = False, **changes: Any
    ) -> tuple[Outcome, Log]:
        wanted, log = written(tmp_path, flux, **changes), Log()
        how = Resume() if resume else None
        outcome = train(wanted, tmp_path, events=log.events, planner=planner, resume=how, dry_run=dry_run)
        return outcome, log

    return begin


def written(base: Path, flux: Path, **changes: Any) -> Recipe:
    """A recipe whose step takes more than its other phases."""
    training = {"steps": 2, "batch_size": 4, "device": "cpu", "save_every": 1, **changes.pop("training", {})}
    memory = {"autoencoder": "sliced", **changes.pop("memory", {})}
    return recipe(base, flux, **sections(training=training, memory=memory, **changes))


def needed(base: Path, flux: Path, **changes: Any) -> int:
    """Bytes that the recipe takes as it is."""
    wanted = written(base, flux, **changes)
    return Estimator.of_recipe(wanted, base, device_named("cpu")).of(wanted).needed


def size(count: int) -> str:
    return f"{count / MIB:.4f}MiB"


def ran(tmp_path: Path) -> Recipe:
    """The recipe that the run wrote."""
    return read_recipe(tmp_path / "runs" / "tiny" / "recipe.toml").recipe


def test_what_the_recipe_leaves_open_is_chosen_and_written(tmp_path: Path, flux: Path, start: Start) -> None:
    budget = size(needed(tmp_path, flux) - MIB // 2)
    outcome, log = start(memory={"budget": budget})
    assert outcome.exit_code == 0
    chosen = ran(tmp_path)
    assert chosen.memory.planned
    assert chosen.memory.budget == budget
    assert chosen.training.checkpoint_blocks
    assert "planned for 0.9 GiB of cpu: training.checkpoint_blocks=" in log.texts


def test_batches_are_split_where_blocks_may_not_be_recomputed(
    tmp_path: Path, flux: Path, start: Start
) -> None:
    own = {"training": {"checkpoint_blocks": False}}
    _, log = start(memory={"budget": size(needed(tmp_path, flux, **own) - MIB // 2)}, **own)
    assert ran(tmp_path).memory.micro_batch == 2
    assert "planned for 0.9 GiB of cpu: memory.micro_batch=2" in log.texts


def test_what_was_planned_and_does_not_go_with_what_is_stated_now_is_dropped(
    tmp_path: Path, flux: Path, start: Start
) -> None:
    """Gradients that are added up over passes cannot be used at once."""
    own = {"full": {}, "training": {"checkpoint_blocks": False}}
    budget = size(needed(tmp_path, flux, **own) - MIB // 2)
    memory = {"budget": budget, "autoencoder": "sliced"}
    start(memory=memory, **{**own, "training": {**own["training"], "steps": 1}})
    before = ran(tmp_path)
    assert before.memory.micro_batch is not None
    fused = {"optimizer": {"fused_backward": True, "clip": 0.0}}
    merged = as_planned(written(tmp_path, flux, memory=memory, **own, **fused), before)
    assert merged.memory.micro_batch is None
    assert merged.memory.planned == [key for key in before.memory.planned if key != "memory.micro_batch"]
    assert as_planned(written(tmp_path, flux, memory=memory, **own), before).memory == before.memory


def test_what_the_recipe_states_is_not_changed(tmp_path: Path, flux: Path, start: Start) -> None:
    """Whether it is the default or not; the message says what would have been enough."""
    budget = size(needed(tmp_path, flux) - MIB // 2)
    with pytest.raises(BudgetError, match=r"does not fit in [^$]*it would fit with --set"):
        start(
            memory={"budget": budget, "weights": "full", "micro_batch": 4},
            training={"checkpoint_blocks": False},
        )
    assert not (tmp_path / "runs").exists()


def test_a_budget_that_is_enough_changes_nothing(tmp_path: Path, start: Start) -> None:
    start(memory={"budget": "64GiB"})
    assert ran(tmp_path).memory.planned == []


def test_a_resumed_run_is_as_it_was_planned(
    tmp_path: Path, flux: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is planned again, wherever it goes on and whatever is free there."""
    memory = {"budget": size(needed(tmp_path, flux) - MIB // 2)}
    start(memory=memory, training={"steps": 1})
    before = ran(tmp_path)
    monkeypatch.setattr(deciding, "choose", None)
    outcome, _ = start(memory=memory, resume=True)
    after = ran(tmp_path)
    assert outcome.exit_code == 0
    assert after.memory == before.memory
    assert after.training.checkpoint_blocks == before.training.checkpoint_blocks


def test_another_budget_changes_only_what_leaves_results_alone(
    tmp_path: Path, flux: Path, start: Start
) -> None:
    start(memory={"budget": "64GiB"}, training={"steps": 1})
    start(memory={"budget": size(needed(tmp_path, flux) - MIB // 2)}, resume=True)
    after = ran(tmp_path)
    assert after.memory.weights == "full"
    assert after.training.checkpoint_blocks is not False
    start(memory={"budget": "64GiB"}, training={"steps": 3}, resume=True)
    assert ran(tmp_path).training.checkpoint_blocks is False


def test_without_a_budget_the_cpu_is_not_planned_for(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "choose", None)
    start()
    assert ran(tmp_path).memory.planned == []


def test_a_budget_is_not_ignored_where_nothing_plans(start: Start) -> None:
    with pytest.raises(RecipeError, match="pass `planner`"):
        start(planner=None, memory={"budget": "64GiB"})


def test_a_dry_run_plans_too(tmp_path: Path, start: Start) -> None:
    with pytest.raises(BudgetError, match="does not fit in 16"):
        start(memory={"budget": "16MiB"}, dry_run=True)
    assert not (tmp_path / "runs").exists()
