"""Several losses at fixed noise: each under its name, and without a trace in what is learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from velatura.events import ValidationFinished
from velatura.training.reporting.event_log import read_log, validation_losses

from ..tiny import write_pictures
from .conftest import SIZES, Run, Train, equal

COMMON: dict[str, Any] = {"training": {"steps": 4}, "optimizer": {"schedule": "constant"}}
NAMES = ["validation", "faces", "train-stabilized"]


def watching(tmp_path: Path) -> dict[str, Any]:
    faces = write_pictures(tmp_path / "faces", SIZES[:2], seed=1)
    return {
        **COMMON,
        "validation": {"share": 0.2, "training_share": 0.3, "every": 2, "times": 2},
        "validation_sets": [{"name": "faces", "folder": str(faces)}],
    }


def told(run: Run) -> list[tuple[int, str, float]]:
    return [(event.step, event.name, event.loss) for event in run.log.of(ValidationFinished)]


def test_each_loss_is_told_under_its_name(run: Train, tmp_path: Path) -> None:
    found = run(**watching(tmp_path))
    assert [(step, name) for step, name, _ in told(found)] == [
        (step, name) for step in (2, 4) for name in NAMES
    ]
    assert len({loss for _, _, loss in told(found)}) == 6
    curves = validation_losses(read_log(found.folder / "events.jsonl"))
    assert list(curves) == NAMES
    report = (found.folder / "report.html").read_text()
    assert all(f"</span>{name}</td>" in report for name in NAMES)  # of the curves' legend


def test_more_of_them_change_neither_each_other_nor_what_is_learned(run: Train, tmp_path: Path) -> None:
    many = watching(tmp_path)
    plain = run(into="plain", **{**COMMON, "validation": {"share": 0.2, "every": 2, "times": 2}})
    found = run(into="many", **many)
    assert equal(plain.state(), found.state())
    assert plain.losses == found.losses
    assert told(plain) == [one for one in told(found) if one[1] == "validation"]


def test_a_run_that_was_stopped_tells_them_as_one_that_was_not(run: Train, tmp_path: Path) -> None:
    many = watching(tmp_path)
    straight = run(into="straight", **many)
    stopped = run(stop_after=2, **many)
    resumed = run(resume=True, **many)
    assert told(stopped) + told(resumed) == told(straight)
    assert equal(resumed.state(), straight.state())


def test_a_resumed_run_may_have_other_sets(run: Train, tmp_path: Path) -> None:
    many = watching(tmp_path)
    run(stop_after=2, **many)
    many["validation"]["training_share"] = 1.0
    del many["validation_sets"]
    resumed = run(resume=True, **many)
    assert [(step, name) for step, name, _ in told(resumed)][-2:] == [
        (4, "validation"),
        (4, "train-stabilized"),
    ]


def test_a_request_to_stop_leaves_the_validation_in_hand_off(
    run: Train, tmp_path: Path, interrupted_in: Callable[[str, int], None]
) -> None:
    """It is made whole when the run goes on, and is what it would have been."""
    settings = watching(tmp_path)
    whole = run(into="whole", **settings)
    interrupted_in("validation", 1)
    stopped = run(**settings)
    assert (stopped.outcome.exit_code, stopped.outcome.step, told(stopped)) == (75, 2, [])
    assert "the validation of step 2 is left out; --resume makes it" in stopped.log.texts
    assert told(run(**settings, resume=True)) == told(whole)


def test_the_watched_images_are_cached_as_validation_shows_them(run: Train, tmp_path: Path) -> None:
    """Training shows them in random crops and with their tags shuffled, validation does not."""
    (tmp_path / "photos" / "00.png").with_suffix(".txt").write_text("a, b, c, d")
    data = {"crop": "random", "flip": 1.0, "shuffle_tags": True, "caption_variants": 2}
    found = run(**{**COMMON, "data": data, "validation": {"training_share": 1.0, "every": 2}})
    assert [name for _, name, _ in told(found)] == ["train-stabilized"] * 2
    kinds = [json.loads(line)["kind"] for line in (found.folder / "events.jsonl").read_text().splitlines()]
    assert kinds.count("ValidationFinished") == 2
