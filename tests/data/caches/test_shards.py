"""Shards: what was written is read back bit for bit, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from velatura.data.caches.blocks import Group
from velatura.data.caches.shard_writer import ShardWriter
from velatura.data.caches.shards import ShardStore

WRITER = textwrap.dedent(
    """
    import sys, torch
    from pathlib import Path
    from velatura.data.caches.shard_writer import ShardWriter
    from velatura.data.caches.shards import ShardStore
    from velatura.events import Events
    torch.set_num_threads(1)
    folder, first, last, each = Path(sys.argv[1]), *map(int, sys.argv[2:])
    store = ShardStore(folder, Events())
    print("ready", flush=True)
    for start in range(first, last, each):
        groups = {f"{n:08x}": {"x": torch.full((20000,), float(n))} for n in range(start, start + each)}
        store.write(groups)
    """
)


def group(number: int) -> Group:
    return {"a": torch.full((2, 3), number, dtype=torch.float16), "b": torch.tensor(number)}


def put_and_stop(store: ShardStore) -> None:
    with ShardWriter(store) as writer:
        writer.put("k1", group(1))
        writer.put("k2", group(2))
        raise KeyboardInterrupt


def start_writer(folder: Path, first: int, last: int, each: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(folder), *map(str, (first, last, each))]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_round_trip_over_processes_lifetimes(tmp_path: Path, log: Any) -> None:
    store = ShardStore(tmp_path, log.events)
    kinds = [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    first = {f"t{i}": torch.arange(6).reshape(1, 2, 3).to(kind) for i, kind in enumerate(kinds)}
    first |= {"empty": torch.empty(0, 4), "strided": torch.arange(12.0).reshape(3, 4).T}
    store.write({"k1": first, "k2": group(2)})
    store.write({"k3": group(3)})
    again = ShardStore(tmp_path, log.events)
    assert len(again) == 3
    found = dict(again.read(["k3", "k1", "k2", "unknown"]))
    assert set(found) == {"k1", "k2", "k3"}
    for name, tensor in first.items():
        assert found["k1"][name].dtype == tensor.dtype
        assert torch.equal(found["k1"][name], tensor)
    assert torch.equal(found["k3"]["b"], torch.tensor(3))


def test_what_is_there_is_not_written_again(tmp_path: Path, log: Any) -> None:
    one, two = ShardStore(tmp_path, log.events), ShardStore(tmp_path, log.events)
    one.write({"k": group(1)})
    two.write({"k": group(1)})
    assert len(list(tmp_path.iterdir())) == 1
    assert "k" in two


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_flipped_byte_is_noticed(tmp_path_factory: Any, position: int, flip: int) -> None:
    from velatura.events import Events

    folder = tmp_path_factory.mktemp("shards")
    ShardStore(folder, Events()).write({"k1": group(1), "k2": group(2)})
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= flip
    path.write_bytes(data)
    for key, found in ShardStore(folder, Events()).read(["k1", "k2"]):
        expected = group(int(key[1]))
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_damaged_shard_is_deleted_with_a_notice(tmp_path: Path, log: Any, keep: int) -> None:
    ShardStore(tmp_path, log.events).write({"k": group(1)})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:keep])
    store = ShardStore(tmp_path, log.events)
    assert dict(store.read(["k"])) == {}
    assert "k" not in store
    assert not path.exists()
    assert "was damaged" in log.texts[0]
    store.write({"k": group(1)})
    assert dict(store.read(["k"]))


def test_a_shard_deleted_by_someone_else_is_only_forgotten(tmp_path: Path, log: Any) -> None:
    store = ShardStore(tmp_path, log.events)
    store.write({"k": group(1)})
    next(tmp_path.iterdir()).unlink()
    assert dict(store.read(["k"])) == {}
    assert "k" not in store
    assert log.texts == []


def test_remains_of_crashes_are_swept_after_a_day(tmp_path: Path, log: Any) -> None:
    old, new = tmp_path / ".x.safetensors.1.partial", tmp_path / ".x.safetensors.2.partial"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    store = ShardStore(tmp_path, log.events)
    assert len(store) == 0
    assert not old.exists()
    assert new.exists()


def test_the_writer_keeps_what_it_has_when_interrupted(tmp_path: Path, log: Any) -> None:
    store = ShardStore(tmp_path, log.events)
    with pytest.raises(KeyboardInterrupt):
        put_and_stop(store)
    assert set(dict(ShardStore(tmp_path, log.events).read(["k1", "k2"]))) == {"k1", "k2"}


def test_the_writer_writes_full_shards(tmp_path: Path, log: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("velatura.data.caches.shard_writer.SHARD_BYTES", 2 * 20)
    with ShardWriter(ShardStore(tmp_path, log.events)) as writer:
        for number in range(5):
            writer.put(f"k{number}", group(number))  # 12 + 8 bytes
    assert len(list(tmp_path.iterdir())) == 3


def test_killed_in_the_middle_of_a_write(tmp_path: Path, log: Any) -> None:
    writer = start_writer(tmp_path, 0, 10**6, 50)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(2000):  # until a write is under way
        if list(tmp_path.glob(".*.partial")):
            break
        time.sleep(0.001)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    store = ShardStore(tmp_path, log.events)
    found = dict(store.read([f"{n:08x}" for n in range(10**5)]))
    assert found
    assert len(found) % 50 == 0
    assert all(
        torch.equal(tensors["x"], torch.full((20000,), float(int(key, 16)))) for key, tensors in found.items()
    )
    assert log.texts == []


def test_two_processes_at_once(tmp_path: Path, log: Any) -> None:
    writers = [start_writer(tmp_path, 0, 60, 10), start_writer(tmp_path, 30, 90, 12)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()
    found = dict(ShardStore(tmp_path, log.events).read([f"{n:08x}" for n in range(90)]))
    assert len(found) == 90
    assert all(
        torch.equal(tensors["x"], torch.full((20000,), float(int(key, 16)))) for key, tensors in found.items()
    )
    assert log.texts == []
