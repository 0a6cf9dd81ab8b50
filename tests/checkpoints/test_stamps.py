"""A stamp tells every change, once the clock has moved on."""

from __future__ import annotations

import os
import sys
from array import array
from pathlib import Path

import pytest

from velatura.checkpoints import stamps
from velatura.checkpoints.stamps import is_settled, stamp_of

SECOND = 10**9


def test_a_time_of_modification_that_is_set_back_is_told_by_the_time_of_change(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    before = file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert stamp_of(before) == (3, before.st_mtime_ns, before.st_ctime_ns)
    assert stamp_of(file.stat())[:2] == stamp_of(before)[:2]
    assert stamp_of(file.stat()) != stamp_of(before)


def test_two_seconds_settle_a_file() -> None:
    looked = 100 * SECOND
    assert is_settled((5, 97 * SECOND, 97 * SECOND), looked)
    assert not is_settled((5, 98 * SECOND, 97 * SECOND), looked)
    assert not is_settled((5, 97 * SECOND, 99 * SECOND), looked)
    assert not is_settled((5, 200 * SECOND, 97 * SECOND), looked)  # a clock that was wrong


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """With names that are hard to hand on, and more of them than one process asks for alone."""
    monkeypatch.setattr(stamps, "SHARED_FROM", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    names = ["plain.jpg", "with\nline.jpg", "кот и пёс.jpg", os.fsdecode(b"\xff not utf-8.jpg")]
    for size, name in enumerate(names):
        (tmp_path / name).write_bytes(b"x" * size)
    return [str(tmp_path / name) for name in names]


def test_two_processes_ask_for_the_stamps_of_many_files(files: list[str]) -> None:
    expected = stamps.packed(stamp_of(Path(path).stat()) for path in files)
    assert stamps.packed_stamps(files) == expected
    assert array("q", expected)[::3].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("gone", [0, 3])
def test_a_file_that_is_gone_is_told(files: list[str], gone: int) -> None:
    Path(files[gone]).unlink()
    with pytest.raises(FileNotFoundError):
        stamps.packed_stamps(files)


@pytest.mark.parametrize("broken", ["/bin/false", "/nowhere/python"])
def test_where_no_second_process_can_help(
    files: list[str], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    expected = stamps.packed_stamps(files)
    monkeypatch.setattr(sys, "executable", broken)
    assert stamps.packed_stamps(files) == expected
