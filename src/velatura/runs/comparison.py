"""Runs side by side: what differs in their recipes, their losses, the same previews of each."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from velatura.errors import RecipeError
from velatura.runs.recipes import LOSS_KEYS, Difference, differences
from velatura.runs.run import Run, read_run
from velatura.training.reporting.curves import Point

LETTERS = string.ascii_uppercase[:8]  # more curves than these cannot be told apart


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What previews must share to be set side by side: the words, the noise, and whether averages paint them."""

    prompt: str
    seed: int
    width: int | None
    height: int | None
    average: bool = False

    @property
    def facts(self) -> str:
        """What it is besides its prompt, for people."""
        return f"seed {self.seed}, {self.width}x{self.height}" + ", average" * self.average


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two to eight runs, each known by a letter. `previews`: of each subject, a mapping of steps to files per run."""

    runs: Sequence[Run]
    differences: Sequence[Difference]
    previews: Mapping[Subject, Sequence[Mapping[int, Path]]]

    @property
    def letters(self) -> str:
        """A letter for each run."""
        return LETTERS[: len(self.runs)]

    @property
    def names(self) -> list[str]:
        """The runs' names, or their folders where two runs share a name."""
        names = [run.overview.name for run in self.runs]
        return names if len(set(names)) == len(names) else [run.overview.folder for run in self.runs]

    @property
    def curves(self) -> dict[str, list[Sequence[Point]]]:
        """What is drawn in one frame, by its title: a curve of each run, empty where a run has none."""
        found: dict[str, list[Sequence[Point]]] = {
            "loss (training, smoothed)": [run.smoothed for run in self.runs]
        }
        for name in dict.fromkeys(name for run in self.runs for name in run.validations):
            found[f"{name} loss"] = [run.validations.get(name, []) for run in self.runs]
        return found

    @property
    def caution(self) -> str:
        """Why the losses say little beside each other; empty where nothing speaks against it."""
        keys = [row.key for row in self.differences if row.key.startswith(LOSS_KEYS)]
        if not keys:
            return ""
        return f"losses of unlike tasks say little beside each other; these runs differ in {', '.join(keys)}"

    def record(self) -> dict[str, Any]:
        """The comparison as plain data for JSON."""
        return {
            "runs": [asdict(run.overview) for run in self.runs],
            "differences": [asdict(row) for row in self.differences],
            "losses": [run.losses for run in self.runs],
            "validation_losses": [run.validations for run in self.runs],
            "previews": [
                {
                    **asdict(subject),
                    "runs": [{step: str(path) for step, path in steps.items()} for steps in each],
                }
                for subject, each in self.previews.items()
            ],
        }


def compare(roots: Sequence[Path]) -> Comparison:
    """Read the runs and set them side by side. Raises RecipeError for fewer than two of them, or too many."""
    if not 2 <= len({root.resolve() for root in roots}) == len(roots) <= len(LETTERS):
        raise RecipeError(
            f"received {', '.join(map(str, roots))}; two to {len(LETTERS)} different runs can be compared"
        )
    runs = [read_run(root) for root in roots]
    return Comparison(
        runs=runs, differences=differences([run.recipe for run in runs]), previews=_previews(runs)
    )


def _previews(runs: Sequence[Run]) -> dict[Subject, list[dict[int, Path]]]:
    found: dict[Subject, list[dict[int, Path]]] = {}
    for number, run in enumerate(runs):
        for picture in run.pictures:
            request = picture.request
            subject = Subject(
                prompt=request.prompt,
                seed=request.seed,
                width=request.width,
                height=request.height,
                average=picture.average,
            )
            each = found.setdefault(subject, [{} for _ in runs])
            each[number].setdefault(picture.step, picture.path)
    return found
