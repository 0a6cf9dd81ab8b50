"""A second scan reads only what changed, and never trusts what may have."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from velatura.data.items import Scan
from velatura.data.scanning import looking
from velatura.data.scanning import scan as module
from velatura.data.scanning.index import FILE, Index
from velatura.recipe.data.sources.folder import FolderData

Write = Callable[..., Path]


@pytest.fixture
def rescan(tmp_path: Path, write_image: Write, log: Any, monkeypatch: Any) -> Callable[..., tuple[Scan, int]]:
    """Scan with a memory; also tells how many images were looked at."""
    looked: list[bool] = []
    original = looking.probe

    def counting(data: bytes, *, thorough: bool, **options: Any) -> Any:
        looked.append(thorough)
        return original(data, thorough=thorough, **options)

    monkeypatch.setattr(looking, "probe", counting)
    monkeypatch.setattr("velatura.checkpoints.stamps.SETTLED_AFTER", -(10**18))  # files may be brand new
    for i in range(3):
        write_image(f"set/{i}.png", (40 + i, 30), seed=i, caption=f"number {i}")

    def run(thorough: bool = True) -> tuple[Scan, int]:
        looked.clear()
        found = module.scan(
            [FolderData(folder="set", max_bad=0.5)],
            tmp_path,
            log.events,
            thorough=thorough,
            memory=tmp_path / "memory",
        )
        return found, len(looked)

    return run


def test_nothing_is_read_twice(rescan: Any) -> None:
    first, looked = rescan()
    assert looked == 3
    again, looked = rescan()
    assert looked == 0
    assert again == first


def test_what_changed_is_read_again(rescan: Any, tmp_path: Path, write_image: Write) -> None:
    rescan()
    write_image("set/1.png", (41, 30), seed=77)
    write_image("set/4.png", seed=5, caption="new")
    (tmp_path / "set/0.txt").write_text("another")
    (tmp_path / "set/2.png").unlink()
    found, looked = rescan()
    assert looked == 2
    assert [item.caption.text for item in found.items] == ["another", "number 1", "new"]
    assert rescan()[1] == 0


def test_same_size_and_same_modification_time(rescan: Any, tmp_path: Path) -> None:
    first, _ = rescan()
    path = tmp_path / "set/1.png"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found, looked = rescan()
    assert looked == 1  # the change time tells
    assert found != first


def test_a_closer_look_is_not_replaced_by_a_quick_one(rescan: Any) -> None:
    assert rescan(thorough=False)[1] == 3
    assert rescan(thorough=True)[1] == 3
    assert rescan(thorough=False)[1] == 0


def test_bad_images_are_looked_at_each_time(rescan: Any, tmp_path: Path) -> None:
    (tmp_path / "set/bad.png").write_text("not an image")
    assert rescan()[1] == 4
    found, looked = rescan()
    assert looked == 1
    assert len(found.quarantined) == 1


def test_files_that_just_changed_are_not_trusted(rescan: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("velatura.checkpoints.stamps.SETTLED_AFTER", 2 * 10**9)
    rescan()
    assert rescan()[1] == 3


def test_files_that_are_gone_are_forgotten_in_time(rescan: Any, tmp_path: Path) -> None:
    """Rows of files that are gone go when they outnumber the others: the index does not grow for ever."""
    rescan()
    (tmp_path / "set/0.png").unlink()
    rescan()
    assert rows(tmp_path, "images") == 3
    (tmp_path / "set/1.png").unlink()
    for i in range(3):
        (tmp_path / f"set/{i}.txt").unlink()
    rescan()
    assert (rows(tmp_path, "images"), rows(tmp_path, "captions")) == (1, 0)


def test_only_new_files_are_written(
    rescan: Any, tmp_path: Path, write_image: Write, monkeypatch: Any
) -> None:
    rescan()
    written: list[int] = []
    original = Index.save

    def counting(self: Index, root: str, new: Any, gone: Any) -> None:
        written.append(len(new.images) + len(new.captions))
        original(self, root, new, gone)

    monkeypatch.setattr(Index, "save", counting)
    write_image("set/9.png", seed=9, caption="nine")
    rescan()
    rescan()
    assert written == [2, 0]


def test_names_that_are_no_text(rescan: Any, tmp_path: Path, write_image: Write) -> None:
    try:
        (tmp_path / "set/1.png").rename(tmp_path / "set" / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system takes text only")
    assert rescan()[1] == 3
    assert rescan()[1] == 0
    write_image("set/2.png", (42, 30), seed=78)
    assert rescan()[1] == 2  # as one of a source that did not change as a whole, it is read again


def rows(tmp_path: Path, table: str) -> int:
    with closing(sqlite3.connect(tmp_path / "memory" / FILE)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
