"""A large file is gone through once, and again when it changed."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from velatura.data.scanning.index import FILE, Index
from velatura.data.scanning.index_tables import Rows
from velatura.data.scanning.listings import Listings


@pytest.fixture
def read(tmp_path: Path, log: Any, monkeypatch: Any) -> Any:
    """Lists files by their bytes; tells what was read now."""
    monkeypatch.setattr("velatura.checkpoints.stamps.SETTLED_AFTER", -(10**18))  # files may be brand new

    def run(*names: str, memory: Path | None = tmp_path / "memory") -> tuple[list[str], list[str]]:
        now: list[str] = []

        def list_file(path: str) -> str:
            now.append(Path(path).name)
            return Path(path).read_text()

        index = None if memory is None else Index(memory, log.events)
        with Listings(index, tmp_path / "set") as known:
            found = [known.of(str(tmp_path / name), list_file) for name in names]
        return found, now

    for name in "ab":
        (tmp_path / name).write_text(f"members of {name}")
    return run


def test_each_file_is_read_once(read: Any, tmp_path: Path) -> None:
    assert read("a", "b") == (["members of a", "members of b"], ["a", "b"])
    assert read("a", "b") == (["members of a", "members of b"], [])
    (tmp_path / "b").write_text("other members")
    assert read("a", "b") == (["members of a", "other members"], ["b"])
    (tmp_path / "a").write_text("MEMBERS of a")
    os.utime(tmp_path / "a", ns=(5, 5))
    assert read("a")[1] == ["a"]


def test_a_listing_that_is_damaged_is_made_again(read: Any, tmp_path: Path) -> None:
    read("a")
    with closing(sqlite3.connect(tmp_path / "memory" / FILE)) as connection, connection:
        connection.execute("UPDATE listings SET content = '{]'")
    assert read("a") == (["members of a"], ["a"])


def test_without_a_memory(read: Any) -> None:
    for _ in range(2):
        assert read("a", memory=None)[1] == ["a"]


def test_files_that_are_gone_are_forgotten_and_images_are_not(read: Any, tmp_path: Path, log: Any) -> None:
    index, root = Index(tmp_path / "memory", log.events), str(tmp_path / "set")
    index.save(root, Rows(images={"x": (1, 2, 3, 1, 4, 5, "ab", 1)}), [])
    read("a", "b")
    read("b")
    assert list(index.listings(root)) == [str(tmp_path / "b")]
    assert index.load(root).images.keys() == {"x"}
    index.forget(days=-1)
    assert index.listings(root) == {}


def test_a_file_of_just_now_is_not_trusted(read: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("velatura.checkpoints.stamps.SETTLED_AFTER", 2 * 10**9)
    read("a")
    assert read("a")[1] == ["a"]
