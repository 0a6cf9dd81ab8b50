"""Weights & Biases as a package of one's own in its place sees it; nothing is installed, nothing is sent."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from velatura.errors import RecipeError, VelaturaError
from velatura.events import PreviewSaved, StepFinished

from ..conftest import Train


class Error(Exception):
    """wandb.Error"""


@dataclass
class FakeRun:
    options: dict[str, Any]
    logged: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    breaks: bool = False

    def define_metric(self, name: str, *, step_metric: str) -> None:
        self.metrics[name] = step_metric

    def log(self, values: dict[str, Any]) -> None:
        if self.breaks:
            raise Error("the service is gone")
        self.logged.append(values)

    def finish(self, *, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


@dataclass
class FakePicture:
    path: str
    caption: str


class FakeWandb(ModuleType):
    Error = Error
    Image = FakePicture

    def __init__(self, *, reachable: bool = True, breaks: bool = False) -> None:
        super().__init__("wandb")
        self.runs: list[FakeRun] = []
        self.reachable = reachable
        self.breaks = breaks

    def init(self, **options: Any) -> FakeRun:
        if not self.reachable:
            raise Error("api_key not configured (no-tty)")
        self.runs.append(FakeRun(options, breaks=self.breaks))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    return fake


OUTPUT = {"output": {"wandb": "dogs"}}


def test_losses_and_previews_are_sent(run: Train, wandb: FakeWandb) -> None:
    done = run(training={"steps": 2}, previews={"prompts": ["a cube"], "every": 2, "steps": 1}, **OUTPUT)
    (sent,) = wandb.runs
    assert sent.metrics == {"*": "step"}
    assert sent.exit_codes == [0]
    assert (sent.options["project"], sent.options["name"], sent.options["resume"]) == (
        "dogs",
        "tiny",
        "allow",
    )
    assert sent.options["dir"] == str(done.folder)
    assert sent.options["config"]["training"]["steps"] == 2
    steps = [values for values in sent.logged if "loss/train" in values]
    assert [(values["step"], values["loss/train"]) for values in steps] == [
        (event.step, event.loss) for event in done.log.of(StepFinished)
    ]
    assert {"grad_norm", "learning_rate", "images_per_second"} <= steps[0].keys()
    pictures = [(values["step"], values["previews/00"]) for values in sent.logged if "previews/00" in values]
    assert pictures == [
        (event.step, FakePicture(event.path, "a cube")) for event in done.log.of(PreviewSaved)
    ]
    assert [step for step, _ in pictures] == [0, 2]


def test_a_resumed_run_goes_on_in_the_same_charts(run: Train, wandb: FakeWandb) -> None:
    run(training={"steps": 3}, stop_after=1, **OUTPUT)
    run(training={"steps": 3}, resume=True, **OUTPUT)
    run(into="other", training={"steps": 1}, output={**OUTPUT["output"]})
    first, second, other = [sent.options["id"] for sent in wandb.runs]
    assert first == second != other
    assert len(first) == 12


def test_a_run_that_fails_is_told_so(run: Train, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("velatura.training.step.Stepper.__call__", wrong)
    with pytest.raises(RuntimeError, match="shapes"):
        run(training={"steps": 1}, **OUTPUT)
    assert wandb.runs[0].exit_codes == [1]


def test_a_service_that_goes_away_does_not_end_the_run(run: Train, wandb: FakeWandb) -> None:
    wandb.breaks = True
    done = run(training={"steps": 2}, **OUTPUT)
    assert done.outcome.exit_code == 0
    assert done.log.texts.count("wandb cannot be written: the service is gone. The run goes on") == 1


def test_an_account_that_is_not_set_up_is_told_before_anything_is_encoded(
    run: Train, wandb: FakeWandb
) -> None:
    wandb.reachable = False
    with pytest.raises(
        VelaturaError, match=r"output.wandb = 'dogs': .* \(api_key not configured.* `wandb login`"
    ):
        run(training={"steps": 1}, **OUTPUT)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_package_that_is_not_installed_is_told(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecipeError, match=r"output.wandb is set, .* pip install 'velatura\[wandb\]'"):
        run(training={"steps": 1}, dry_run=dry_run, **OUTPUT)
    assert not (tmp_path / "runs").exists()


def test_nobody_needs_it_who_does_not_ask(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run(training={"steps": 1}).outcome.exit_code == 0
