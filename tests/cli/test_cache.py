from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from velatura.data.caches.shards import ShardStore
from velatura.events import Events

Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with an old and a new file."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("VELATURA_CACHE", str(cache))
    store = ShardStore(cache / "latents" / "m1", Events())
    store.write({"old": {"x": torch.ones(1000)}})
    (old,) = (cache / "latents" / "m1").iterdir()
    month_ago = time.time() - 31 * 24 * 3600
    os.utime(old, (month_ago, month_ago))
    store.write({"new": {"x": torch.ones(1000)}})
    return cache


def test_verify(velatura: Run, folder: Path) -> None:
    ended = velatura("cache", "verify")
    assert ended.code == 0, ended.err
    assert "2 entries are sound, 0 damaged" in ended.out
    shard = next((folder / "latents/m1").iterdir())
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    ended = velatura("cache", "verify", folder, "--json")
    assert ended.code == 1
    facts = json.loads(ended.out)
    assert (facts["sound"], facts["damaged_files"]) == (1, 1)
    assert facts["caches"][0]["entries"] == 1


def test_gc_by_age(velatura: Run, folder: Path) -> None:
    facts = json.loads(velatura("cache", "gc", "--days", "30", "--dry-run", "--json").out)
    assert (facts["removed"], len(facts["files"])) == (False, 1)
    assert len(list((folder / "latents/m1").iterdir())) == 2
    ended = velatura("cache", "gc", folder, "--days", "30")
    assert ended.code == 0
    assert "1 file," in ended.out
    assert "new" in ShardStore(folder / "latents/m1", Events())
    assert not Path(facts["files"][0]).exists()


def test_gc_wants_to_know_what_shall_go(velatura: Run, folder: Path) -> None:
    ended = velatura("cache", "gc", folder)
    assert ended.code == 2
    assert "--days N, or --keep RECIPE" in ended.err
    assert len(list((folder / "latents/m1").iterdir())) == 2


def test_no_cache(velatura: Run, tmp_path: Path) -> None:
    ended = velatura("cache", "verify", tmp_path / "nowhere")
    assert ended.code == 2
    assert "no cache folder" in ended.err
