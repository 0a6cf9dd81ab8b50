"""The event log: every line is JSON, whatever happened to the run that wrote it."""

from __future__ import annotations

import errno
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from velatura.events import Notice, PhaseProgress, PhaseStarted, StepFinished, ValidationFinished
from velatura.training.folder import RunFolder
from velatura.training.reporting.logs import JsonLog, Logs, TensorBoardLog

from ...tiny import Log
from ..conftest import Train

STEP = StepFinished(
    step=3, steps=9, loss=0.25, grad_norm=math.inf, learning_rate=1e-4, seconds=0.5, images=4, memory=7, terms={"kl": math.nan}
)  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    def no_constants(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=no_constants) for line in path.read_text("utf-8").splitlines()]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


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


def full_after(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """A disk on which each file has room for so many bytes, and takes what it can."""
    real = io.FileIO.write

    class Small(io.FileIO):
        def write(self, data: Any) -> int:
            left = max(0, room - self.tell())
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(self, bytes(data)[:left])

    def opened(path: Path, mode: str, buffering: int = -1) -> Any:
        return Small(path, mode.replace("b", "")) if mode == "ab" else open(path, mode, buffering)

    monkeypatch.setattr("velatura.training.reporting.logs.open", opened, raising=False)


@pytest.mark.parametrize("kind", [JsonLog, TensorBoardLog])
def test_a_record_that_does_not_fit_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    full_after(monkeypatch, 500)
    log = kind(tmp_path / "log")

    def fill() -> None:
        for _ in range(10):
            log(STEP)

    with pytest.raises(OSError, match="No space left on device"):
        fill()
    log.file.file = open(log.file.file.name, "ab", buffering=0)  # noqa: SIM115 - there is room again
    log(STEP)
    log.close()
    if kind is JsonLog:
        assert {line["kind"] for line in lines(tmp_path / "log")} == {"StepFinished"}
    else:
        assert len(scalars(tmp_path / "log")["loss/train"]) >= 1


@pytest.mark.parametrize("room", [0, 10, 2000])
def test_a_full_disk_under_the_logs_is_one_warning_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    full_after(monkeypatch, room)
    folder, log = RunFolder(tmp_path, "x"), Log()
    logs = Logs(folder, log.events)
    log.events.listeners.append(logs)
    for _ in range(20):
        log.events(STEP)
    log.events.listeners.remove(logs)
    logs.close()
    told = [event.message for event in log.of(Notice)]
    assert len(told) == 2
    assert f"{folder.events} cannot be written: No space left on device. The run goes on" in "".join(told)
    assert f"{folder.tensorboard} cannot be written: No space left" in "".join(told)


def test_a_run_does_not_end_with_its_logs(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = run(into="straight", training={"steps": 3})
    full_after(monkeypatch, 100)
    found = run(training={"steps": 3})
    assert found.outcome.exit_code == 0
    assert found.losses == straight.losses
    assert found.log.texts.count("cannot be written: No space left on device") == 2


def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    board = TensorBoardLog(tmp_path)
    board(STEP)
    board(ValidationFinished(step=3, loss=0.5))
    board(ValidationFinished(step=3, loss=0.75, name="faces"))
    board(Notice(message="nothing for a curve"))
    board.close()
    values = scalars(tmp_path)
    assert values["loss/train"] == [(3, 0.25)]
    assert values["loss/validation"] == [(3, 0.5)]
    assert values["loss/faces"] == [(3, 0.75)]
    assert values["images_per_second"] == [(3, 8)]
    assert "terms/kl" in values
