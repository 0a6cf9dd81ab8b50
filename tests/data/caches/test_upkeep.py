from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from velatura.data.caches.shards import ShardStore
from velatura.data.caches.upkeep import remove, unused, usage, verify


def fill(folder: Path, log: Any, *keys: str) -> Path:
    store = ShardStore(folder, log.events)
    before = set(folder.glob("*.safetensors"))
    store.write({key: {"x": torch.ones(1000)} for key in keys})
    (new,) = set(folder.glob("*.safetensors")) - before
    return new


def test_usage_verify_remove(tmp_path: Path, log: Any) -> None:
    old = fill(tmp_path / "latents" / "m1", log, "a", "b")
    new = fill(tmp_path / "latents" / "m1", log, "c")
    text = fill(tmp_path / "text" / "m1", log, "d")
    uses = {(use.kind, use.entries) for use in usage(tmp_path, log.events)}
    assert uses == {("latents", 3), ("text", 1)}
    assert verify(tmp_path, log.events).sound == 4

    data = bytearray(text.read_bytes())
    data[-1] ^= 1
    text.write_bytes(data)
    found = verify(tmp_path, log.events)
    assert (found.sound, found.damaged) == (3, 1)

    size = old.stat().st_size
    month_ago = time.time() - 31 * 24 * 3600
    os.utime(old, (month_ago, month_ago))
    shards = unused(tmp_path, log.events, days=30)
    assert [one.path for one in shards] == [old]
    assert remove(tmp_path, shards) == size
    assert new.exists()
    assert not (tmp_path / "text" / "m1").exists()
    assert unused(tmp_path / "nowhere", log.events, days=0) == []


def test_what_is_kept_protects_its_whole_file(tmp_path: Path, log: Any) -> None:
    mixed = fill(tmp_path / "latents" / "m1", log, "a", "b")
    other = fill(tmp_path / "latents" / "m1", log, "c")
    text = fill(tmp_path / "text" / "m2", log, "d")
    assert {one.path for one in unused(tmp_path, log.events, keep={"b", "z"})} == {other, text}
    assert unused(tmp_path, log.events, keep={"b"}, days=1) == []
    remove(tmp_path, unused(tmp_path, log.events, keep={"b"}))
    assert mixed.exists()
    assert not text.parent.exists()


def test_a_damaged_header_counts_as_damage(tmp_path: Path, log: Any) -> None:
    fill(tmp_path / "latents" / "m1", log, "a").write_bytes(b"nonsense")
    found = verify(tmp_path, log.events)
    assert (found.sound, found.damaged) == (0, 1)


def test_reading_counts_as_use(tmp_path: Path, log: Any) -> None:
    shard = fill(tmp_path / "text" / "m1", log, "a")
    month_ago = time.time() - 31 * 24 * 3600
    os.utime(shard, (month_ago, month_ago))
    list(ShardStore(tmp_path / "text" / "m1", log.events).read(["a"]))
    assert unused(tmp_path, log.events, days=30) == []
