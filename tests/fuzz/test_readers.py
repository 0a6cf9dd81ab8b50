"""A few of the cases that `make fuzz` runs by the hundred thousand, and whether broken rules would be noticed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from velatura.errors import DataError

from . import TARGETS, watch
from .pool import run_all
from .target import Outcome, Target, run

CASES = 100


@pytest.fixture(params=TARGETS, ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    return request.param


def test_sound_files_are_read(target: Target, tmp_path: Path) -> None:
    for data in target.sound():
        assert run(target, data, tmp_path) == Outcome()


def test_files_that_lie(target: Target, tmp_path: Path) -> None:
    for number in range(CASES):
        outcome = run(target, target.case(number), tmp_path)
        assert not outcome.failure, f"case {number}: {outcome.failure}\n{outcome.trace}"


def reader(read: Callable[[bytes, Path], object]) -> Target:
    return Target(name="test", sound=lambda: (b"",), make=lambda chance: chance.randbytes(3), read=read)


def spin(data: bytes, folder: Path) -> None:
    while True:
        pass


def write_beside(data: bytes, folder: Path) -> None:
    (folder.parent / "beside").write_bytes(data)


def read_beside(data: bytes, folder: Path) -> None:
    (folder.parent / "secret").read_bytes()


def call_out(data: bytes, folder: Path) -> None:
    os.system("true")


def swallow(data: bytes, folder: Path) -> None:
    try:
        write_beside(data, folder)
    except Exception:
        raise DataError("cannot be written") from None


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (lambda data, folder: {}["a"], "KeyError"),
        (spin, "Broken"),
        (write_beside, "Broken"),
        (read_beside, "Broken"),
        (call_out, "Broken"),
        (swallow, "Broken"),
    ],
)
def test_a_broken_rule_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[bytes, Path], object], what: str
) -> None:
    monkeypatch.setattr(watch, "CPU_SECONDS", 0.2)
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "inside").mkdir()
    assert run(reader(read), b"", tmp_path / "inside").failure.startswith(what)
    assert not (tmp_path / "beside").exists()


def test_refusals_and_results_are_told_apart(tmp_path: Path) -> None:
    def refuse(data: bytes, folder: Path) -> None:
        raise DataError("no")

    assert run(reader(refuse), b"", tmp_path) == Outcome(refusal="DataError")
    assert run(reader(lambda data, folder: None), b"", tmp_path) == Outcome()


def test_a_case_is_the_same_each_time() -> None:
    assert all(target.case(7) == target.case(7) != target.case(8) for target in TARGETS)


def test_a_case_that_takes_much_memory_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MEMORY", 2**26)
    greedy = reader(lambda data, folder: bytes([1]) * (2**27))
    (report,) = run_all([greedy], 1, 1, 1, tmp_path)
    assert [what.split(" in ")[0] for what in report.failures] == ["Broken"]


def test_a_process_that_dies_is_one_more_result(tmp_path: Path) -> None:
    def die(data: bytes, folder: Path) -> None:
        if data == reader(die).case(5):
            os.kill(os.getpid(), signal.SIGKILL)

    (report,) = run_all([reader(die)], 20, 2, 1, tmp_path)
    assert report.cases == 20
    assert report.failures == {"ends the process: SIGKILL": 1}
    assert report.saved["ends the process: SIGKILL"].read_bytes() == reader(die).case(5)
