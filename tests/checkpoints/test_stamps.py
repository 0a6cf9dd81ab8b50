"""A stamp tells every change, once the clock has moved on."""

from __future__ import annotations

import os
from pathlib import Path

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
