"""The event log: every line is JSON, whatever happened to the run that wrote it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from velatura.errors import StorageError
from velatura.events import Notice, PhaseProgress, PhaseStarted, StepFinished, ValidationFinished
from velatura.training.logs import JsonLog, TensorBoardLog

STEP = StepFinished(
    step=3, steps=9, loss=0.25, grad_norm=math.inf, learning_rate=1e-4, seconds=0.5, images=4, memory=7, terms={"kl": math.nan}
)  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    def no_constants(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=no_constants) for line in path.read_text("utf-8").splitlines()]


def test_one_line_of_strict_json_per_event(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "events.jsonl")
    for event in (
        PhaseStarted(phase="train", total=2),
        PhaseProgress(phase="train", done=1),
        STEP,
        Notice(message="ü\n"),
    ):
        log(event)
    log.close()
    found = lines(tmp_path / "events.jsonl")
    assert [line["kind"] for line in found] == [
        "PhaseStarted",
        "StepFinished",
        "Notice",
    ]  # progress is left out
    assert (found[1]["step"], found[1]["loss"], found[1]["grad_norm"]) == (3, 0.25, "inf")
    assert found[1]["terms"] == {"kl": "nan"}
    assert found[2]["message"] == "ü\n"
    assert all(line["time"] > 1e9 for line in found)


def test_lines_are_there_at_once(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "events.jsonl")
    log(STEP)
    assert len(lines(tmp_path / "events.jsonl")) == 1


def test_a_line_that_was_cut_by_a_kill_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"kind": "Notice"}\n{"kind": "Step')
    for _ in range(2):
        log = JsonLog(path)
        log(STEP)
        log.close()
    first, cut, *rest = path.read_text().splitlines()
    assert json.loads(first)["kind"] == "Notice"
    assert cut == '{"kind": "Step'
    assert [json.loads(line)["kind"] for line in rest] == ["StepFinished"] * 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "events.jsonl")
    log.file.close()
    log.file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    with pytest.raises(StorageError, match="No space left on device"):
        log(STEP)
    log.close()


def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoardLog(tmp_path)
    board(STEP)
    board(ValidationFinished(step=3, loss=0.5))
    board(Notice(message="nothing for a curve"))
    board.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    values = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert values["loss/train"] == [(3, 0.25)]
    assert values["loss/validation"] == [(3, 0.5)]
    assert values["images_per_second"] == [(3, 8)]
    assert "terms/kl" in values
