from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from velatura.checkpoints import reader
from velatura.checkpoints.header import DTYPES
from velatura.checkpoints.reader import TensorFile
from velatura.errors import CheckpointError


def values(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    raw = torch.randn(shape, generator=generator) * 4
    return raw > 0 if dtype == torch.bool else raw.abs().to(dtype)


@pytest.fixture
def every_dtype(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    tensors = {name: values(dtype, (5, 3)) for name, dtype in DTYPES.items()}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"who": "me"})
    return tmp_path / "x.safetensors", tensors


def test_every_dtype_reads_as_written(every_dtype: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = every_dtype
    with TensorFile(path) as file:
        assert file.metadata == {"who": "me"}
        assert set(file) == set(DTYPES)
        for name, tensor in tensors.items():
            assert file.dtype(name) == tensor.dtype
            assert file.shape(name) == (5, 3)
            read = file.read(name)
            assert read.dtype == tensor.dtype
            assert torch.equal(read.view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("chunk", [4, 64, 1 << 20])
def test_casts_like_torch(
    every_dtype: tuple[Path, dict[str, torch.Tensor]], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "CHUNK_BYTES", chunk)
    path, tensors = every_dtype
    with TensorFile(path) as file:
        for name, tensor in tensors.items():
            for dtype in (torch.float32, torch.bfloat16):
                assert torch.equal(file.read(name, dtype=dtype), tensor.to(dtype))


def test_rows_read_only_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.arange(40.0).view(10, 4), "s": torch.tensor(3.5)}, tmp_path / "x.safetensors")
    asked: list[int] = []
    original = TensorFile._read_bytes

    def counted(self: TensorFile, flat: torch.Tensor, offset: int, key: str) -> None:
        asked.append(flat.numel() * flat.itemsize)
        original(self, flat, offset, key)

    monkeypatch.setattr(TensorFile, "_read_bytes", counted)
    with TensorFile(tmp_path / "x.safetensors") as file:
        assert torch.equal(file.read("a", rows=(3, 5)), torch.arange(12.0, 20.0).view(2, 4))
        assert asked == [2 * 4 * 4]
        assert file.read("a", rows=(4, 4)).shape == (0, 4)
        assert file.read("s").item() == 3.5
        with pytest.raises(CheckpointError, match="rows 8 to 11 of 'a' were asked for"):
            file.read("a", rows=(8, 11))
        with pytest.raises(CheckpointError, match="no tensor 'aa' among its 2; the nearest is 'a'"):
            file.read("aa")


def test_result_is_independent_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(4)}, path)
    with TensorFile(path) as file:
        first, second = file.read("a"), file.read("a")
    first.zero_()
    assert second.sum() == 4
    assert load_file(path)["a"].sum() == 4


def test_file_that_shrinks_and_closed_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    file = TensorFile(path)
    with path.open("r+b") as raw:
        raw.truncate(200)
    with pytest.raises(CheckpointError, match="it ended within tensor 'a'"):
        file.read("a")
    file.close()
    with pytest.raises(CheckpointError, match="cannot be read"):
        file.read("a")


def test_threads_share_one_file(tmp_path: Path) -> None:
    tensors = {str(i): torch.full((5000,), float(i)) for i in range(16)}
    save_file(tensors, tmp_path / "x.safetensors")
    wrong: list[str] = []
    with TensorFile(tmp_path / "x.safetensors") as file:

        def work(offset: int) -> None:
            for step in range(32):
                key = str((step + offset) % 16)
                if not torch.equal(file.read(key), tensors[key]):
                    wrong.append(key)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_the_meta_device_reads_nothing(
    every_dtype: tuple[Path, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = every_dtype
    with TensorFile(path) as file:
        monkeypatch.setattr(TensorFile, "_read_bytes", lambda *_: pytest.fail("bytes were read"))
        whole = file.read("F32", device="meta")
        assert (whole.is_meta, tuple(whole.shape), whole.dtype) == (True, (5, 3), torch.float32)
        part = file.read("BF16", rows=(1, 3), dtype=torch.float32, device="meta")
        assert (part.is_meta, tuple(part.shape), part.dtype) == (True, (2, 3), torch.float32)
