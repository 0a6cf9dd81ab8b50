"""What events.jsonl says is read back as it was, whatever happened to the file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from velatura.events import (
    Event,
    FileSaved,
    Notice,
    PhaseStarted,
    PreviewSaved,
    RunEnded,
    StepFinished,
    ValidationFinished,
)
from velatura.training.reporting.event_log import losses, read_log, validation_losses
from velatura.training.reporting.logs import JsonLog


def step(number: int, loss: float = 1.0) -> StepFinished:
    return StepFinished(
        step=number,
        steps=9,
        loss=loss,
        grad_norm=1.0,
        learning_rate=1e-4,
        seconds=0.5,
        images=4,
        memory=7,
        terms={"a": 1.0},
    )


def write(path: Path, *events: Event | str) -> Path:
    log = JsonLog(path)
    for event in events:
        if isinstance(event, str):
            log.file.append(event.encode())
        else:
            log(event)
    log.close()
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    events = [
        PhaseStarted(phase="train", total=9, unit="steps"),
        step(1),
        ValidationFinished(step=1, loss=math.inf),
        PreviewSaved(step=1, prompt="a\ncat", path="x.png"),
        FileSaved(step=1, what="state", path="y"),
        Notice(message="ü", level="warning"),
        RunEnded(how="failed", message="why"),
    ]
    assert read_log(write(tmp_path / "events.jsonl", *events)) == events


def test_steps_that_were_made_again_after_a_kill_count_once(tmp_path: Path) -> None:
    """State at 2, killed after 4; resumed: notices come between the old steps and the new ones."""
    notice = Notice(message="going on after step 2")
    path = write(
        tmp_path / "events.jsonl",
        *(step(number, loss=1.0) for number in (1, 2, 3, 4)),
        ValidationFinished(step=4, loss=9.0),
        ValidationFinished(step=4, loss=7.0, name="faces"),
        '{"kind": "StepFin\n',
        notice,
        *(step(number, loss=2.0) for number in (3, 4, 5)),
        ValidationFinished(step=4, loss=8.0),
        ValidationFinished(step=4, loss=6.0, name="faces"),
    )
    found = read_log(path)
    assert losses(found) == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert validation_losses(found) == {"validation": [(4, 8.0)], "faces": [(4, 6.0)]}
    assert notice in found


@pytest.mark.parametrize(
    "line",
    [
        "", "[]", "5", "null", "{", '"kind"', '{"kind": 3}', '{"kind": []}', '{"kind": "Event"}', '{"kind": "Unheard"}',
        '{"kind": "StepFinished"}', '{"kind": "ValidationFinished", "step": "x", "loss": 1}', "[" * 100_000, "\udcff\x00",
    ],
)  # fmt: skip
def test_lines_that_are_no_events_are_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events.jsonl"
    good = json.dumps(step(2).record())
    path.write_bytes(f"{line}\n{good}\n".encode("utf-8", "surrogateescape"))
    assert read_log(path) == [step(2)]


def test_no_log_is_no_events(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none") == []
    assert read_log(tmp_path) == []


def test_the_tail_of_a_long_log(tmp_path: Path) -> None:
    path = write(tmp_path / "events.jsonl", *(step(number) for number in range(1, 10)))
    size = len(path.read_bytes()) // 9
    assert read_log(path, tail=3 * size + size // 2) == [step(number) for number in (7, 8, 9)]
    assert read_log(path, tail=10**9) == read_log(path)


def test_losses_that_are_no_numbers_are_left_out() -> None:
    assert losses([step(1), step(2, math.nan), step(3, math.inf), step(4)]) == [
        (1, 1.0),
        (4, 1.0),
    ]
