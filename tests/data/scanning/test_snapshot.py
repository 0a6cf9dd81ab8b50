"""A source that did not change is recalled as a whole; whatever changed is seen."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from velatura.data.items import Scan
from velatura.data.scanning import scan as module
from velatura.data.scanning import snapshot
from velatura.data.scanning.index import FILE, Index
from velatura.errors import DataError
from velatura.events import Events
from velatura.recipe.data.sources.folder import FolderData

TABLE = {"folder": "set", "masks": "masks", "recursive": True, "max_bad": 0.5}


def write(path: Path, seed: int, size: tuple[int, int] = (20, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: Any) -> Path:
    """Pictures `0` to `2` with captions and masks, one of them in a sub-folder."""
    monkeypatch.setattr("velatura.checkpoints.stamps.SETTLED_AFTER", -(10**18))  # files may be brand new
    for number, name in enumerate(("0", "1", "sub/2")):
        write(tmp_path / f"set/{name}.png", number)
        write(tmp_path / f"masks/{name}.png", 10 + number)
        (tmp_path / f"set/{name}.txt").write_text(f"number {number}")
    return tmp_path


@pytest.fixture
def start(base: Path, monkeypatch: Any) -> Callable[..., tuple[Scan, bool]]:
    """Scan with a memory; the result is what a scan without one gives. Also tells whether anything was read."""
    reads: list[object] = []
    original = module.read
    monkeypatch.setattr(module, "read", lambda *given: (reads.append(given), original(*given))[1])

    def run(*tables: dict[str, Any], thorough: bool | None = None) -> tuple[Scan, bool]:
        sections = [FolderData(**(TABLE | table)) for table in tables or ({},)]
        truth = module.scan(sections, base, Events(), thorough=thorough)
        reads.clear()
        found = module.scan(sections, base, Events(), thorough=thorough, memory=base / "memory")
        assert found == truth
        return found, bool(reads)

    return run


def test_what_did_not_change_is_not_read(start: Any) -> None:
    assert start()[1]
    found, read = start()
    assert not read
    assert [item.caption.text for item in found.items] == ["number 0", "number 1", "number 2"]
    assert [item.companions["mask"].width for item in found.items] == [20, 20, 20]


def rewrite(path: Path) -> None:
    """Other bytes under the same size and time of modification."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "image": lambda base: write(base / "set/1.png", 7),
    "image below": lambda base: write(base / "set/sub/2.png", 7),
    "image added": lambda base: (write(base / "set/5.png", 7), write(base / "masks/5.png", 8)),
    "image removed": lambda base: (base / "set/1.png").unlink(),
    "image renamed": lambda base: (base / "set/1.png").rename(base / "set/1.jpg"),
    "image becomes a link": lambda base: (
        (base / "set/1.png").rename(base / "elsewhere.png"),
        (base / "set/1.png").symlink_to(base / "masks/1.png"),
    ),
    "image swapped": lambda base: (
        (base / "set/0.png").rename(base / "set/x"),
        (base / "set/1.png").rename(base / "set/0.png"),
        (base / "set/x").rename(base / "set/1.png"),
    ),
    "image damaged": lambda base: (base / "set/1.png").write_bytes(b"no image"),
    "caption": lambda base: (base / "set/1.txt").write_text("another"),
    "caption of the same size and time": lambda base: rewrite(base / "set/1.txt"),
    "caption removed": lambda base: (base / "set/1.txt").unlink(),
    "caption emptied": lambda base: (base / "set/sub/2.txt").write_text(""),
    "mask": lambda base: write(base / "masks/0.png", 9),
    "mask removed": lambda base: (base / "masks/0.png").unlink(),
    "mask added": lambda base: write(base / "masks/9.png", 9),
    "other file": lambda base: (base / "set/notes.md").write_text("about"),
    "hidden file": lambda base: (base / "set/.notes").write_text("about"),
    "stray caption": lambda base: (base / "set/1.txt").rename(base / "set/1.caption"),
    "folder added": lambda base: (write(base / "set/more/5.png", 7), write(base / "masks/more/5.png", 8)),
    "folder removed": lambda base: (
        (base / "set/sub").rename(base / "gone"),
        (base / "masks/sub").rename(base / "gone masks"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(start: Any, base: Path, change: str) -> None:
    before, _ = start()
    CHANGES[change](base)
    found, read = start()
    assert read
    if change not in ("other file", "hidden file", "mask added"):
        assert found.items != before.items
    else:
        assert found.items == before.items


def test_a_caption_added(start: Any, base: Path) -> None:
    (base / "set/1.txt").unlink()
    assert start()[0].items[1].caption.text == ""
    assert not start()[1]
    (base / "set/1.txt").write_text("late")
    assert start()[0].items[1].caption.text == "late"


@pytest.mark.parametrize(
    "key",
    [{"repeats": 3}, {"flip": 0.5}, {"recursive": False}, {"masks": None}, {"caption_extension": ".cap"},
     {"trigger": "sks"}, {"weight": 2.0}, {"resolution": 256}],
)  # fmt: skip
def test_another_key_of_the_table_is_seen(start: Any, key: dict[str, Any]) -> None:
    start()
    assert start(key)[1]
    assert not start(key)[1]
    assert not start()[1]  # both are kept


def test_a_lower_limit_is_seen(start: Any, base: Path) -> None:
    start()
    section = FolderData(**TABLE, max_pixels=100)
    with pytest.raises(DataError, match="none of 3 images"):
        module.scan([section], base, Events(), memory=base / "memory")


def test_two_tables_of_one_folder(start: Any) -> None:
    tables: tuple[dict[str, Any], ...] = ({}, {"repeats": 2})
    start(*tables)
    found, read = start(*tables)
    assert not read
    assert [(item.source, item.treatment.repeats) for item in found.items] == [(0, 1)] * 3 + [(1, 2)] * 3


def test_of_tables_that_are_no_longer_used_few_are_kept(start: Any, base: Path) -> None:
    for repeats in range(1, 8):
        start({"repeats": repeats})
    assert count(base) == 4
    assert not start({"repeats": 7})[1]
    assert start({"repeats": 1})[1]


def test_a_quick_look_is_not_taken_for_a_thorough_one(start: Any) -> None:
    start(thorough=False)
    assert not start(thorough=False)[1]
    assert start(thorough=True)[1]
    assert not start(thorough=None)[1]  # so few are looked at thoroughly


def test_damage_is_noticed(start: Any, base: Path) -> None:
    start()
    with closing(sqlite3.connect(base / "memory" / FILE)) as connection, connection:
        (content,) = connection.execute("SELECT content FROM snapshots").fetchone()
        connection.execute("UPDATE snapshots SET content = ?", (content.replace(b"number 1", b"number 7"),))
    assert start()[1]
    assert not start()[1]


def test_other_code_reads_again(start: Any, monkeypatch: Any) -> None:
    start()
    monkeypatch.setattr(snapshot, "_code", lambda: "another version")
    assert start()[1]


def test_unsound_sources_and_files_of_just_now_are_not_kept(start: Any, base: Path, monkeypatch: Any) -> None:
    (base / "set/1.png").write_bytes(b"no image")
    start()
    assert count(base) == 0
    write(base / "set/1.png", 1)
    monkeypatch.setattr("velatura.checkpoints.stamps.SETTLED_AFTER", 2 * 10**9)
    start()
    assert count(base) == 0


def test_what_is_too_large_for_the_index_is_not_kept(start: Any, base: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(snapshot, "_LARGEST", 500)
    start()
    assert start()[1]
    assert count(base) == 0


def test_what_is_recalled_counts_as_used(start: Any, base: Path) -> None:
    start()
    with closing(sqlite3.connect(base / "memory" / FILE)) as connection, connection:
        connection.execute("UPDATE sources SET used = 0")
    assert not start()[1]
    assert Index(base / "memory", Events()).forget(days=1) == 0


def test_an_index_that_cannot_be_read_is_done_without(start: Any, base: Path) -> None:
    (base / "memory").write_text("a file where the folder should be")
    assert start()[1]
    assert start()[1]


def count(base: Path) -> int:
    with closing(sqlite3.connect(base / "memory" / FILE)) as connection:
        return int(connection.execute("SELECT count(*) FROM snapshots").fetchone()[0])
