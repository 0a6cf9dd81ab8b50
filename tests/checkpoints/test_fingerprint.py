from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from velatura.checkpoints import fingerprint as module
from velatura.checkpoints import stamps
from velatura.checkpoints.fingerprint import fingerprint, remembered_sha256
from velatura.errors import CheckpointError

OLD = time.time_ns() - 10**12


def weights(path: Path, *changes: int) -> Path:
    """Four tensors, 9.6 MB; `changes`: places of the last one whose value is another."""
    tensors = {f"t{i}": torch.full((600_000,), float(i)) for i in range(4)}
    for place in changes:
        tensors["t3"][place] += 1
    save_file(tensors, path)
    return path


def test_every_byte_counts_and_names_do_not(tmp_path: Path) -> None:
    a, b = weights(tmp_path / "a.safetensors"), weights(tmp_path / "b.sft")
    assert fingerprint(a) == fingerprint(b) == hashlib.sha256(a.read_bytes()).hexdigest()
    found = {fingerprint(weights(tmp_path / "c", place)) for place in (0, 1, 4321, 299_999, 599_999)}
    assert len(found) == 5
    assert fingerprint(a) not in found


def test_several_files_in_any_order(tmp_path: Path) -> None:
    a, b, c = (weights(tmp_path / name, place) for name, place in (("a", 0), ("b", 1), ("c", 2)))
    assert fingerprint([a, c]) == fingerprint([str(c), a]) != fingerprint([a, b])
    with pytest.raises(CheckpointError, match="cannot be read"):
        fingerprint(tmp_path / "none")


def test_configs_count_as_far_as_they_compute(tmp_path: Path) -> None:
    file = weights(tmp_path / "a")
    config = {"hidden_act": "quick_gelu", "layers": [1, 2], "scaling_factor": 0.18215}
    found = fingerprint(file, [config])
    assert found != fingerprint(file)
    assert found == fingerprint(file, [dict(reversed(config.items()))])
    notes = {
        "_name_or_path": "/home/me",
        "_diffusers_version": "0.1",
        "transformers_version": "4",
        "dtype": "x",
    }
    assert found == fingerprint(file, [config | notes])
    for changed in ({"hidden_act": "gelu"}, {"scaling_factor": 0.13025}, {"norm_num_groups": 4}):
        assert found != fingerprint(file, [config | changed])
    assert fingerprint(file, [config, {}]) != fingerprint(file, [{}, config])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read; every file is one whose hash is remembered, and the clock has moved on."""
    seen: list[Path] = []
    original = module.file_sha256

    def read(path: Path) -> str:
        seen.append(path)
        return original(path)

    monkeypatch.setattr(module, "file_sha256", read)
    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(stamps, "SETTLED_AFTER", -10_000_000_000)
    monkeypatch.setattr(module, "_here", {})
    return seen


def test_a_large_file_is_read_once(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = weights(tmp_path / "a")
    first = remembered_sha256(file)
    assert remembered_sha256(file) == first
    monkeypatch.setattr(module, "_here", {})  # as another process
    assert remembered_sha256(file) == first == hashlib.sha256(file.read_bytes()).hexdigest()
    assert reads == [file]


def test_a_changed_file_is_read_again(tmp_path: Path, reads: list[Path]) -> None:
    file = weights(tmp_path / "a")
    os.utime(file, ns=(OLD, OLD))
    first = remembered_sha256(file)
    weights(tmp_path / "b", 5).replace(file)  # another inode, and the same size and time
    os.utime(file, ns=(OLD, OLD))
    assert remembered_sha256(file) != first
    with file.open("r+b") as raw:  # in place: the time of change tells
        raw.seek(5_000_000)
        raw.write(b"\x01")
    os.utime(file, ns=(OLD, OLD))
    assert remembered_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(reads) == 3


def test_a_file_that_just_changed_is_not_trusted(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setattr(stamps, "SETTLED_AFTER", 2_000_000_000)
    file = weights(tmp_path / "a")
    assert remembered_sha256(file) == remembered_sha256(file)
    assert len(reads) == 2
    assert not (own_cache / "fingerprints").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"stamp": 3}', "null"])
def test_a_damaged_memory_is_none(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch, own_cache: Path, damage: str
) -> None:
    file = weights(tmp_path / "a")
    first = remembered_sha256(file)
    (note,) = (own_cache / "fingerprints").iterdir()
    assert json.loads(note.read_text())["path"] == str(file)
    note.write_text(damage)
    monkeypatch.setattr(module, "_here", {})
    assert remembered_sha256(file) == first
    assert len(reads) == 2


def test_a_cache_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VELATURA_CACHE", str(tmp_path / "file"))
    file = weights(tmp_path / "a")
    assert remembered_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()
