from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from velatura.data.shards import ShardStore
from velatura.data.upkeep import collect, usage, verify


def fill(folder: Path, log: Any, *keys: str) -> Path:
    store = ShardStore(folder, log.events)
    before = set(folder.glob("*.safetensors"))
    store.write({key: {"x": torch.ones(1000)} for key in keys})
    (new,) = set(folder.glob("*.safetensors")) - before
    return new


def test_usage_verify_collect(tmp_path: Path, log: Any) -> None:
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
    assert collect(tmp_path, days=30) == size
    assert new.exists()
    assert not (tmp_path / "text" / "m1").exists()
    assert collect(tmp_path / "nowhere", days=0) == 0


def test_reading_counts_as_use(tmp_path: Path, log: Any) -> None:
    shard = fill(tmp_path / "text" / "m1", log, "a")
    month_ago = time.time() - 31 * 24 * 3600
    os.utime(shard, (month_ago, month_ago))
    list(ShardStore(tmp_path / "text" / "m1", log.events).read(["a"]))
    assert collect(tmp_path, days=30) == 0
