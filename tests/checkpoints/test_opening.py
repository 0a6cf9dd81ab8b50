from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from velatura.checkpoints.opening import open_checkpoint
from velatura.errors import CheckpointError
from velatura.placement.precision.quantised import widened

from .conftest import raw_file


def shards(folder: Path, *, index: bool, count: int = 2) -> dict[str, torch.Tensor]:
    tensors = {f"t{i}": torch.full((3,), float(i)) for i in range(4)}
    where = {key: f"m-{1 + i % 2:05d}-of-00002.safetensors" for i, key in enumerate(tensors)}
    for name in sorted(set(where.values()))[:count]:
        save_file({key: tensors[key] for key in tensors if where[key] == name}, folder / name)
    if index:
        (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return tensors


@pytest.mark.parametrize("index", [True, False])
def test_shards_read_as_one(tmp_path: Path, index: bool) -> None:
    tensors = shards(tmp_path, index=index)
    ways = [tmp_path, tmp_path / "m-00002-of-00002.safetensors"]
    for way in [*ways, tmp_path / "m.safetensors.index.json"] if index else ways:
        checkpoint = open_checkpoint(way)
        assert sorted(checkpoint) == sorted(tensors)
        assert all(torch.equal(checkpoint.read(key), tensor) for key, tensor in tensors.items())
        assert [path.name for path in checkpoint.paths] == [f"m-0000{i}-of-00002.safetensors" for i in (1, 2)]


def test_incomplete_shards(tmp_path: Path) -> None:
    shards(tmp_path, index=False, count=1)
    with pytest.raises(CheckpointError, match=r"'m' are not complete, found m-00001-of-00002.safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not a readable index"),
        ("[]", "not a readable index"),
        (
            '{"weight_map": {"a": "../../etc/passwd.safetensors"}}',
            "expected a .safetensors name in this folder",
        ),
        ('{"weight_map": {"a": "/x.safetensors"}}', "expected a .safetensors name in this folder"),
        ('{"weight_map": {"a": "..\\\\x.safetensors"}}', "expected a .safetensors name in this folder"),
        ('{"weight_map": {"a": 3}}', "expected a .safetensors name in this folder"),
        ('{"weight_map": {"a": "x.bin"}}', "expected a .safetensors name in this folder"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "there is no such file"),
        (
            '{"weight_map": {"zz": "m-00001-of-00002.safetensors"}}',
            "1 of its tensors is in no shard, first 'zz'",
        ),
    ],
)
def test_hostile_index(tmp_path: Path, text: str, says: str) -> None:
    shards(tmp_path, index=False)
    (tmp_path / "m.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(tmp_path)


def test_long_names_in_an_index_are_cut(tmp_path: Path) -> None:
    for names in ({"a": "x" * 60_000}, {"a" * 60_000: "m-00001-of-00002.safetensors"}):
        shards(tmp_path, index=False)
        (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(tmp_path)
        assert len(str(caught.value)) < 1000


def test_folder_with_one_or_several(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found no weights file"):
        open_checkpoint(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert open_checkpoint(tmp_path).keys() == ("a",)
    save_file({"b": torch.zeros(1)}, tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match=r"found x.safetensors, y.safetensors; give the path"):
        open_checkpoint(tmp_path)
    save_file({"c": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).keys() == ("c",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_of_tensors(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.ckpt"
    content = {"state_dict": {"a": torch.arange(6.0).view(2, 3), "step": 7}, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(path)
    assert checkpoint.keys() == ("a",)
    assert checkpoint.metadata == {"step": "7"}
    assert torch.equal(
        checkpoint.read("a", rows=(1, 2), dtype=torch.float64), torch.tensor([[3.0, 4, 5]]).double()
    )


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def test_pickle_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"a": Bomb()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="needs code from the file to be run, refused"):
        open_checkpoint(tmp_path / "x.pt")
    (tmp_path / "y.bin").write_bytes(pickle.dumps({"a": Bomb()}))
    with pytest.raises(CheckpointError, match=r"y\.bin"):
        open_checkpoint(tmp_path / "y.bin")


NAMES = ("x.safetensors", "x.sft", "x.ckpt", "x.bin", "x.pt", "x.pth", "x", "weights.data")


@pytest.mark.parametrize("name", NAMES)
def test_the_content_says_what_a_file_is_whatever_its_name(tmp_path: Path, name: str) -> None:
    tensors = {"a": torch.arange(3.0)}
    path = tmp_path / name
    save_file(tensors, path)
    assert torch.equal(open_checkpoint(path).read("a"), tensors["a"])
    for zipped in (True, False):
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
        assert torch.equal(open_checkpoint(path).read("a"), tensors["a"])
    torch.save({"a": Bomb()}, path)
    with pytest.raises(CheckpointError, match="needs code from the file to be run, refused"):
        open_checkpoint(path)


def test_a_header_whose_length_looks_like_a_pickle(tmp_path: Path) -> None:
    """640 bytes are 80 02 in little-endian, as a pickle of protocol 2 begins."""
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    path = raw_file(tmp_path / "x", json.dumps(header).ljust(640), bytes(4))
    assert path.read_bytes().startswith(b"\x80\x02")
    assert open_checkpoint(path).keys() == ("a",)


@pytest.mark.parametrize("name", [name for name in NAMES if "." in name and name != "weights.data"])
def test_a_folder_finds_its_one_file_by_any_usual_name(tmp_path: Path, name: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    assert open_checkpoint(tmp_path).keys() == ("a",)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"\x80\x02junk", b"junk"])
def test_damaged_pickle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": [torch.zeros(1)]}, {1: torch.zeros(1)}])
def test_pickle_of_other_things(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="expected"):
        open_checkpoint(tmp_path / "x.pt")


def test_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="a GGUF file: download the safetensors"):
        open_checkpoint(tmp_path / "x.gguf")
    for name in ("none", "none.pt", "none.safetensors"):
        with pytest.raises(CheckpointError, match="there is no such file"):
            open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(("weight", "scale"), [("scale_weight", 0.25), ("weight_scale", 0.5)])
def test_fp8_scales_are_applied(tmp_path: Path, weight: str, scale: float) -> None:
    codes = torch.tensor([[1.0, -2, 448], [0.5, 3, 0]])
    tensors = {
        "x.weight": codes.to(torch.float8_e4m3fn),
        f"x.{weight}": torch.tensor(scale),
        "x.scale_input": torch.tensor(9.0),
        "x.bias": torch.ones(2),
        "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert sorted(checkpoint) == ["x.bias", "x.weight"]
    assert torch.equal(checkpoint.read("x.weight", dtype=torch.float32), codes * scale)
    assert torch.equal(checkpoint.read("x.weight", rows=(1, 2)), (codes[1:] * scale).bfloat16())
    assert torch.equal(checkpoint.read("x.bias"), torch.ones(2))


def test_fp8_scale_per_row_and_refusals(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    codes = torch.ones(2, 4).to(torch.float8_e5m2)
    save_file({"x.weight": codes, "x.scale_weight": torch.tensor([[2.0], [3.0]])}, path)
    read = open_checkpoint(path).read("x.weight", rows=(1, 2), dtype=torch.float32)
    assert torch.equal(read, torch.full((1, 4), 3.0))
    save_file({"x.weight": codes, "x.scale_weight": torch.ones(2, 3)}, path)
    with pytest.raises(
        CheckpointError, match=r"has shape \(2, 3\), expected one scale, or one per row or block"
    ):
        open_checkpoint(path)
    save_file({"x.scale_weight": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"wants an fp8 tensor 'x.weight' beside it, found nothing"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("shape", "scales", "height", "width"),
    [
        ((4, 6), (4, 3), 1, 2),  # blocks of a row
        ((4, 6), (4, 3, 1), 1, 2),
        ((4, 6), (2, 3), 2, 2),  # tiles
        ((4, 4), (2, 2), 2, 2),  # of which there are as many as rows
        ((200, 300), (2, 3), 128, 128),  # tiles that the last ones are smaller than
    ],
)
@pytest.mark.parametrize("name", ["scale_weight", "weight_scale_inv"])
def test_fp8_scale_per_block(
    tmp_path: Path, shape: tuple[int, int], scales: tuple[int, ...], height: int, width: int, name: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
    scale = torch.rand(scales, generator=generator) + 0.5
    save_file({"x.weight": codes, f"x.{name}": scale}, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    expected = codes.float()
    for row in range(shape[0]):
        for column in range(shape[1]):
            expected[row, column] *= scale.flatten(1)[row // height, column // width]
    assert torch.equal(checkpoint.read("x.weight", dtype=torch.float32), expected)
    assert torch.equal(checkpoint.read("x.weight", rows=(1, 3), dtype=torch.float32), expected[1:3])
    assert checkpoint.in_fp8("x.weight") == (shape[1] % width == 0)
    if checkpoint.in_fp8("x.weight"):
        stored = checkpoint.read_fp8("x.weight", rows=(1, 3))
        assert torch.equal(widened(*stored, torch.float32), expected[1:3])


def test_scales_of_a_single_number_and_of_no_rows(tmp_path: Path) -> None:
    codes = {"x.weight": torch.tensor(2.0).to(torch.float8_e5m2), "y.weight": torch.zeros(0, 6)}
    save_file(codes | {"x.scale_weight": torch.ones(1) / 2, "y.scale_weight": torch.zeros(0)}, tmp_path / "x")
    checkpoint = open_checkpoint(tmp_path / "x")
    assert checkpoint.read("x.weight").item() == 1
    assert checkpoint.read("y.weight").shape == (0, 6)
