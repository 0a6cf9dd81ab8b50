"""One file that any number of processes share, and that may be lost without harm."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from velatura.data.scanning import index as module
from velatura.data.scanning import index_tables as tables
from velatura.data.scanning.index import FILE, Index
from velatura.data.scanning.index_tables import ImageRow, Rows
from velatura.events import Events


def row(width: int) -> ImageRow:
    return (1000, 2**62, 2**62 + 1, 1, width, 20, "ab" * 16, 1)


def test_what_was_saved_is_loaded_by_source(tmp_path: Path, log: Any) -> None:
    index = Index(tmp_path / "new", log.events)
    assert index.load("/a") == Rows()
    assert not (tmp_path / "new").exists()
    index.save(
        "/a", Rows(images={"/a/1.png": row(1)}, captions={"/a/1.txt": (1, 2, 3, "日本\n語", "file")}), []
    )
    index.save("/b", Rows(images={"/a/1.png": row(2), "/b/2.png": row(3)}), [])
    assert index.load("/a") == Rows(
        images={"/a/1.png": row(1)}, captions={"/a/1.txt": (1, 2, 3, "日本\n語", "file")}
    )
    assert index.load("/b").images == {"/a/1.png": row(2), "/b/2.png": row(3)}
    index.save("/b", Rows(images={"/b/2.png": row(4)}), ["/a/1.png"])
    assert index.load("/b").images == {"/b/2.png": row(4)}
    assert index.load("/a").images == {"/a/1.png": row(1)}
    assert log.texts == []


@pytest.mark.parametrize("damage", ["text", "cut", "tables"])
def test_a_damaged_index_is_begun_anew(tmp_path: Path, log: Any, damage: str) -> None:
    index = Index(tmp_path, log.events)
    index.save("/a", Rows(images={f"/a/{i}.png": row(1) for i in range(1000)}), [])
    file = tmp_path / FILE
    if damage == "text":
        file.write_bytes(b"this is no database, but it is long enough for a header" * 100)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:10000])
    else:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("DROP TABLE images")
    assert index.load("/a") == Rows()
    (text,) = log.texts
    assert "damaged" in text
    index.save("/a", Rows(images={"/a/1.png": row(5)}), [])
    assert index.load("/a").images == {"/a/1.png": row(5)}
    assert len(log.texts) == 1


def test_an_index_of_another_version_is_replaced(tmp_path: Path, log: Any, monkeypatch: Any) -> None:
    index = Index(tmp_path, log.events)
    index.save("/a", Rows(images={"/a/1.png": row(1)}), [])
    monkeypatch.setattr(tables, "FORMAT", 99)
    assert index.load("/a") == Rows()
    index.save("/a", Rows(images={"/a/1.png": row(2)}), [])
    assert index.load("/a").images == {"/a/1.png": row(2)}
    assert log.texts == []


def test_a_locked_index_is_done_without(tmp_path: Path, log: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    index = Index(tmp_path, log.events)
    index.save("/a", Rows(images={"/a/1.png": row(1)}), [])
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert index.load("/a").images == {"/a/1.png": row(1)}  # readers do not wait
        index.save("/a", Rows(images={"/a/1.png": row(2)}), [])
        began = time.monotonic()
        monkeypatch.setattr(module, "_PATIENCE", 5.0)
        index.save(
            "/b", Rows(images={"/b/1.png": row(2)}), []
        )  # waits and complains once, not for each source
        assert time.monotonic() - began < 4
        (text,) = log.texts
        assert "locked" in text
    found = Index(tmp_path, log.events).load("/a").images
    assert found == {"/a/1.png": row(1)}  # kept: nothing was thrown away


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path, log: Any) -> None:
    (tmp_path / "file").touch()
    index = Index(tmp_path / "file" / "cache", log.events)
    index.save("/a", Rows(images={"/a/1.png": row(1)}), [])
    assert index.load("/a") == Rows()
    (text,) = log.texts
    assert "cannot be used now" in text


def test_sources_that_were_not_scanned_for_long(tmp_path: Path, log: Any, monkeypatch: Any) -> None:
    index = Index(tmp_path, log.events)
    assert index.forget(days=0) == 0
    for root in ("/a", "/b"):
        index.save(root, Rows(images={"1.png": row(1)}), [])
    later = time.time() + 31 * 24 * 3600
    monkeypatch.setattr(module.time, "time", lambda: later)
    index.save("/b", Rows(), [])
    assert index.forget(days=30) == 1
    assert index.load("/a") == Rows()
    assert index.load("/b").images == {"1.png": row(1)}


def save_many(folder: Path, number: int) -> None:
    index = Index(folder, Events())
    for i in range(20):
        index.save("/a", Rows(images={f"{number}-{i}.png": row(number + 1)}), [])


def test_processes_at_once_lose_nothing(tmp_path: Path, log: Any) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=save_many, args=(tmp_path, number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = Index(tmp_path, log.events).load("/a").images
    assert found == {f"{number}-{i}.png": row(number + 1) for number in range(3) for i in range(20)}
