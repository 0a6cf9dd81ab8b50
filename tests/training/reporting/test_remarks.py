"""What is told, or refused, before a run begins."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from velatura.errors import RecipeError
from velatura.events import Notice
from velatura.training.distribution.launch import Launch
from velatura.training.distribution.team import Team
from velatura.training.reporting.remarks import _require_alone

from ...tiny import recipe
from ..conftest import Run, Train


def warnings(run: Run) -> str:
    return "\n".join(event.message for event in run.log.of(Notice) if event.level == "warning")


@pytest.mark.parametrize(
    ("warmup", "said"), [(3, ""), (4, "at 100% of the learning rate"), (16, "at 25% of the")]
)
def test_a_run_that_ends_within_its_warm_up(run: Train, warmup: int, said: str) -> None:
    told = warnings(run(dry_run=True, training={"steps": 4}, optimizer={"warmup_steps": warmup}))
    assert ("the run ends within its warm-up" in told) == bool(said)
    assert said in told


def test_validation_images_that_are_trained_on(run: Train, photos: Path, tmp_path: Path) -> None:
    assert "also trained on" not in warnings(run(dry_run=True, validation={"share": 0.5}))
    same = warnings(run(dry_run=True, validation={"folder": str(photos)}))
    assert f"6 of 6 validation images are also trained on (for example {photos}/00.png)" in same
    (tmp_path / "apart").mkdir()
    shutil.copy(photos / "03.png", tmp_path / "apart" / "another-name.png")
    found = run(training={"steps": 1}, validation={"folder": str(tmp_path / "apart")})
    assert "1 of 1 validation image is also trained on" in warnings(found)
    assert "also trained on" in (found.folder / "events.jsonl").read_text()


def test_guidance_of_a_model_that_has_none(run: Train, tiny_model: Path) -> None:
    """Configs tell it when the recipe is read; the parts tell it in any case."""
    for dry_run in (True, False):
        with pytest.raises(
            RecipeError, match=r"model.guidance = 3.5 .* has no distilled guidance: it would have no"
        ):
            run(dry_run=dry_run, model={"guidance": 3.5})


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        ({"kind": "prodigyopt.Prodigy"}, "learning_rate = 0.0001 is a factor of it; it is meant to be 1"),
        ({"kind": "prodigyopt.Prodigy", "learning_rate": 1.0}, ""),
        ({"kind": "schedulefree.AdamWScheduleFree"}, 'it is meant to go with schedule = "constant"'),
        ({"kind": "schedulefree.AdamWScheduleFree", "schedule": "constant"}, ""),
    ],
)
def test_optimizers_that_want_settings_of_their_own(run: Train, optimizer: dict[str, Any], said: str) -> None:
    pytest.importorskip(optimizer["kind"].partition(".")[0])
    told = warnings(run(dry_run=True, optimizer=optimizer))
    assert ("optimizer.kind" in told) == bool(said)
    assert said in told


def test_an_optimizer_that_cannot_be_used_is_refused_by_a_dry_run(run: Train) -> None:
    for kind, said in {"no_such.Best": "no_such is not installed", "torch.optim.LBFGS": "closure"}.items():
        with pytest.raises(RecipeError, match=said):
            run(dry_run=True, optimizer={"kind": kind})


@pytest.mark.parametrize(
    ("key", "sections"),
    [
        ("optimizer.fused_backward", {"optimizer": {"fused_backward": True, "clip": 0}}),
        ("optimizer.offload", {"optimizer": {"offload": True}}),
        ("memory.streamed", {"memory": {"streamed": 0.5}}),
    ],
)
def test_what_one_process_alone_can_do(
    key: str, sections: dict[str, Any], tmp_path: Path, tiny_model: Path
) -> None:
    wanted = recipe(tmp_path, tiny_model, full={}, **sections)
    several = SimpleNamespace(recipe=wanted, team=Team(launch=Launch(size=2)))
    with pytest.raises(RecipeError, match=f"{key}.* 2 processes: .* Leave it out, or train with one process"):
        _require_alone(several)  # type: ignore[arg-type]
    _require_alone(SimpleNamespace(recipe=wanted, team=Team()))  # type: ignore[arg-type]
