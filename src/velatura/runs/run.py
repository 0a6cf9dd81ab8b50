"""All that a run's folder tells, read for a person who looks at one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from velatura.events import Notice, StepFinished
from velatura.runs.overview import Overview, overview, size_of
from velatura.runs.recipes import read_recipe_table
from velatura.sampling.request import Request
from velatura.training.folder import RunFolder
from velatura.training.reporting.curves import Point, running_means, window_of
from velatura.training.reporting.event_log import losses, phase_seconds, read_log, validation_losses
from velatura.training.reporting.pictures import is_of_average, pictures


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A preview that lies in the run's folder."""

    step: int
    path: Path
    request: Request
    average: bool  # painted by the moving average of the weights


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A kind of work, how often it was done, and for how long in all."""

    name: str
    times: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run. Parts of its folder that are missing or damaged are empty here."""

    overview: Overview
    recipe: dict[str, Any]
    phases: Sequence[Phase]
    losses: Sequence[Point]
    validations: Mapping[str, Sequence[Point]]  # by their names
    images_per_second: float | None
    memory: int | None  # bytes, at most
    pictures: Sequence[Picture]
    states: Sequence[str]
    models: Sequence[tuple[Path, int]]  # adapters and models, with their sizes in bytes
    notices: Sequence[Notice]

    @property
    def smoothed(self) -> list[Point]:
        """The training loss as a curve that can be read."""
        return running_means(self.losses, window_of(self.losses))

    def record(self) -> dict[str, Any]:
        """The run as plain data for JSON."""
        return {
            **asdict(self.overview),
            "recipe": self.recipe,
            "phases": [asdict(phase) for phase in self.phases],
            "mean_images_per_second": self.images_per_second,
            "memory": self.memory,
            "losses": self.losses,
            "validation_losses": self.validations,
            "previews": [
                {
                    "step": one.step,
                    "path": str(one.path),
                    "request": asdict(one.request),
                    "average": one.average,
                }
                for one in self.pictures
            ],
            "states": self.states,
            "models": [{"path": str(path), "size": size} for path, size in self.models],
            "notices": [{"level": notice.level, "message": notice.message} for notice in self.notices],
        }


def read_run(root: Path) -> Run:
    """Read a run's folder; weights are not opened."""
    folder = RunFolder(root, root.name)
    events = read_log(folder.events)
    steps = [event for event in events if isinstance(event, StepFinished)]
    seconds = sum(step.seconds for step in steps)
    states = sorted(path.name for path in folder.states.glob("*") if path.is_dir() and path.name.isdigit())
    models = sorted([*root.glob("adapters/*.safetensors"), *root.glob("model-*")])
    return Run(
        overview=overview(root),
        recipe=read_recipe_table(folder.recipe),
        phases=[
            Phase(name=name, times=len(each), seconds=sum(each))
            for name, each in phase_seconds(events).items()
        ],
        losses=losses(events),
        validations=validation_losses(events),
        images_per_second=sum(step.images for step in steps) / seconds if seconds > 0 else None,
        memory=max((step.memory for step in steps), default=None),
        pictures=[
            Picture(step=step, path=path, request=request, average=is_of_average(path))
            for step, path, request in pictures(folder.previews_page.parent)
        ],
        states=states,
        models=[(path, size_of(path) if path.is_dir() else path.stat().st_size) for path in models],
        notices=list(dict.fromkeys(event for event in events if isinstance(event, Notice))),
    )
