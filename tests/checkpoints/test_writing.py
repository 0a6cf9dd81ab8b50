from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save

from velatura.checkpoints import writing
from velatura.checkpoints.header import DTYPES
from velatura.checkpoints.pending import Pending
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import CheckpointError, StorageError


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {name: (torch.randn(3, 5) * 3).abs().to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "ünï": torch.ones(1)}
    tensors["transposed"] = torch.arange(6.0).view(2, 3).t()
    path = tmp_path / "new" / "x.safetensors"
    write_safetensors(path, tensors, {"b": "2", "a": "ä"})
    loaded = load_file(path)
    assert sorted(loaded) == sorted(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert torch.equal(loaded[name].float(), tensor.float())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"a": "ä", "b": "2"}
    assert [entry.name for entry in path.parent.iterdir()] == ["x.safetensors"]


def test_same_content_same_bytes(tmp_path: Path) -> None:
    tensors = {name: torch.randn(3) for name in "bca"}
    write_safetensors(tmp_path / "1", tensors, {"x": "1", "y": "2"})
    write_safetensors(tmp_path / "2", dict(sorted(tensors.items())), {"y": "2", "x": "1"})
    first = (tmp_path / "1").read_bytes()
    assert first == (tmp_path / "2").read_bytes()
    assert int.from_bytes(first[:8], "little") % 8 == 0


def test_bytes_are_those_of_the_format_s_own_library(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        f"{i % 3}{name}": (torch.randn(i % 4, 3) * 3).abs().to(t)
        for i, (name, t) in enumerate(DTYPES.items())
    }
    tensors |= {"ü": torch.ones(1), "z": torch.ones(1), "scalar": torch.tensor(1.5, dtype=torch.bfloat16)}
    write_safetensors(tmp_path / "x", tensors, {"only": "one"})
    assert (tmp_path / "x").read_bytes() == save(tensors, {"only": "one"})


def test_pending_is_made_once_and_let_go(tmp_path: Path) -> None:
    alive = 0
    most = 0

    class Counted(torch.Tensor):
        pass

    def make() -> torch.Tensor:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return torch.full((4,), 7.0)

    lazy = {f"t{i}": Pending(shape=(4,), dtype=torch.float32, make=make) for i in range(5)}
    write_safetensors(tmp_path / "x", lazy)
    assert alive == 5
    assert all(torch.equal(tensor, torch.full((4,), 7.0)) for tensor in load_file(tmp_path / "x").values())
    wrong = Pending(shape=(4,), dtype=torch.float32, make=lambda: torch.zeros(3))
    with pytest.raises(
        CheckpointError, match=r"'t' was to be torch.float32 \(4,\), it became torch.float32 \(3,\)"
    ):
        write_safetensors(tmp_path / "y", {"t": wrong})
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    "tensors", [{"__metadata__": torch.ones(1)}, {"a": torch.ones(1, dtype=torch.complex64)}]
)
def test_what_the_format_cannot_hold(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match="cannot be held by safetensors"):
        write_safetensors(tmp_path / "x", tensors)
    with pytest.raises(CheckpointError, match="Metadata 'a' is a int"):
        write_safetensors(tmp_path / "x", {}, {"a": 1})  # type: ignore[dict-item]


def test_full_disk_is_found_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 2000, 2000))
    (tmp_path / "x").write_text("old")
    with pytest.raises(StorageError, match=r"needs 4,0\d\d bytes, .* has 2,000 free"):
        write_safetensors(tmp_path / "x", {"a": torch.zeros(1000)})
    assert (tmp_path / "x").read_text() == "old"


def test_failure_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_safetensors(path, {"a": torch.ones(1)})

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="No space left on device"):
        write_safetensors(path, {"a": torch.zeros(1)})
    assert load_file(path)["a"].item() == 1
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another folder"):
        write_safetensors(tmp_path / "file" / "x", {"a": torch.zeros(1)})


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.dictionaries(
        st.text(max_size=4).filter(lambda s: s != "__metadata__"), st.integers(0, 9), max_size=5
    ),
    chunk=st.sampled_from([1, 8, 64]),
)
def test_chunks_make_no_difference(
    tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int], chunk: int
) -> None:
    tensors = {name: torch.arange(float(size)) for name, size in sizes.items()}
    before = writing._CHUNK
    try:
        writing._CHUNK = 4 * chunk
        whole = b"".join(bytes(piece) for piece in writing.payload(tensors))
    finally:
        writing._CHUNK = before
    assert whole == b"".join(tensors[name].numpy().tobytes() for name in writing.file_order(tensors))
    assert len(whole) == writing.payload_size(tensors)


LOOP = """
import sys, torch
from velatura.checkpoints.writing import write_safetensors
for step in range(10_000):
    write_safetensors(sys.argv[1], {"a": torch.full((400_000,), float(step)), "b": torch.tensor(float(step))})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for wait in (0.0, 0.003, 0.01):
        process = subprocess.Popen([sys.executable, "-c", LOOP, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        loaded = load_file(path)
        assert bool((loaded["a"] == loaded["b"]).all())
    assert hashlib.sha256(path.read_bytes()).hexdigest()
