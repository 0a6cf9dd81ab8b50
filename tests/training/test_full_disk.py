"""A disk that is full from one byte to the next, by the system's own limit on files: no write is made to fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from velatura.errors import StorageError
from velatura.events import Event, FileSaved, PhaseStarted, StepFinished, ValidationFinished

from .conftest import Run, Train

resource = pytest.importorskip("resource", reason="limits of POSIX")
BYTES = 100  # that a file may hold: each one is cut in its first block
SECTIONS: dict[str, Any] = {
    "training": {"steps": 4, "save_every": 2},
    "ema": {"decay": 0.9},
    "validation": {"share": 0.2, "every": 2},
    "previews": {"every": 2, "steps": 1, "prompts": ["a"], "baseline": False},
}
GO_ON = "state/000002; once the disk takes what it refused, go on with --resume."
When = Callable[[Event], bool]


@pytest.fixture
def limit() -> Iterator[Callable[[int | None], None]]:
    """Sets how many bytes a file may hold; None: as many as before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def to(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield to
    to(None)


def results(run: Run) -> dict[str, bytes]:
    """Weights and pictures, by name."""
    files = [*run.folder.glob("adapters/*"), *run.folder.glob("previews/*/*.png")]
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in files}


def begins(phase: str) -> When:
    return lambda event: isinstance(event, PhaseStarted) and event.phase == phase


@pytest.mark.parametrize(
    ("when", "refused", "ending"),
    [
        (begins("cache latents"), "/latents/", "File too large."),
        (lambda e: isinstance(e, StepFinished) and e.step == 4, "the state of step 4", GO_ON),
        (lambda e: isinstance(e, FileSaved) and e.what == "state", "adapters/tiny-000002", GO_ON),
        (lambda e: isinstance(e, ValidationFinished), "previews/000002/00.png", GO_ON),
    ],
    ids=["cache", "state", "export", "preview"],
)
def test_it_is_told_what_was_saved_stays_and_a_resume_ends_the_same(
    run: Train, limit: Callable[[int | None], None], when: When, refused: str, ending: str
) -> None:
    def fill(event: Event) -> None:
        if when(event):
            limit(BYTES)

    with pytest.raises(StorageError) as caught:
        run(watch=fill, **SECTIONS)
    limit(None)
    assert refused in str(caught.value)
    assert "File too large" in str(caught.value)
    assert str(caught.value).endswith(ending)
    resumed = run(resume=True, **SECTIONS)
    assert resumed.outcome.exit_code == 0
    assert "damaged" not in resumed.log.texts
    assert results(resumed) == results(run(into="straight", **SECTIONS))
    assert not list(resumed.folder.rglob(".*"))


def test_a_full_disk_that_is_emptied_in_time_costs_some_lines_of_the_log(
    run: Train, limit: Callable[[int | None], None]
) -> None:
    def fill(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step in (1, 2):
            limit(BYTES if event.step == 1 else None)

    sections = {**SECTIONS, "training": {"steps": 4, "save_every": 4}}
    tried = run(watch=fill, **sections)
    assert tried.log.texts.count("events.jsonl cannot be written: File too large. The run goes on") == 1
    steps = [json.loads(line).get("step") for line in (tried.folder / "events.jsonl").open()]
    assert [step for step in steps if step][:2] == [2, 2]  # the first step is missing, and no line is cut
    assert results(tried) == results(run(into="straight", **sections))
