from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from velatura.checkpoints.reader import TensorFile
from velatura.errors import CheckpointError

from .conftest import raw_file

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
EIGHT = bytes(8)


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {**ENTRY, **changes}}


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        (entry(), EIGHT[:4], "ends 4 bytes after the end of the file"),
        (entry(), EIGHT * 2, "8 bytes follow"),
        (entry(shape=[3]), EIGHT, "has 8 bytes, expected 12"),
        (entry(shape=[-2]), EIGHT, "expected at most 8 sizes"),
        (entry(shape=[2.0]), EIGHT, "expected at most 8 sizes"),
        (entry(shape=[True]), bytes(4), "expected at most 8 sizes"),
        (entry(shape=[1] * 9), EIGHT, "expected at most 8 sizes"),
        (entry(shape=[2**40, 4, 0]), EIGHT, "has 8 bytes, expected 0"),
        (entry(shape=[2**62, 2**62, 0], data_offsets=[0, 0]), b"", "expected at most 8 sizes"),
        (entry(dtype="F4"), EIGHT, "dtype 'F4', expected one of F64"),
        (entry(dtype=["F32"]), EIGHT, "expected one of F64"),
        (entry(data_offsets=[8, 0]), EIGHT, "has -8 bytes"),
        (entry(data_offsets=[0]), EIGHT, "expected [start, end]"),
        (entry(data_offsets=[8, 16]), EIGHT * 2, "leaves a hole after the header"),
        (entry(extra=1), EIGHT, "expected an object with dtype, shape and data_offsets"),
        ({"a": ENTRY, "b": ENTRY}, EIGHT, "it overlaps tensor 'a'"),
        ({"a": [1]}, b"", "expected an object with dtype"),
        ([1], b"", "starts with b'[1]', expected '{'"),
        ("{", b"", "expected 2 to"),
        ('{"a"', b"", "not valid JSON"),
        ('{"a": NaN}', b"", "NaN is not a JSON number"),
        ('{"a": ' + "[" * 100_000, b"", "not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", b"", "not valid JSON"),
        ('{"a": {}, "a": {}}', b"", "'a' stands in it twice"),
        ({"__metadata__": {"a": 1}}, b"", "expected an object of strings"),
        ({"__metadata__": []}, b"", "expected an object of strings"),
        ('{"\\ud800": {}}', b"", "not valid Unicode"),
    ],
)
def test_refuses_with_reason(tmp_path: Path, header: object, data: bytes, says: str) -> None:
    path = raw_file(tmp_path / "x.safetensors", header, data)
    with pytest.raises(CheckpointError) as caught:
        TensorFile(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes, expected at least 8: it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "a zip or a PyTorch pickle"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"GGUF" + b"\xff" * 40, "GGUF"),
        ((10**12).to_bytes(8, "little") + b"{}", "claims 1000000000000 bytes, expected 2 to 2"),
        (b"\xff" * 64, "claims 18446744073709551615 bytes"),
    ],
)
def test_says_what_it_is_instead(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        TensorFile(path)


def test_missing_and_irregular(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        TensorFile(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        TensorFile(tmp_path)


NUMBERS = st.one_of(
    st.integers(-2, 20), st.sampled_from([2**31, 2**62, 2**63, 2**64, 10**30, True, 1.0, None, "1"])
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(
            ["F32", "F16", "BF16", "U8", "BOOL", "F8_E4M3", "I64", "F4", "", None, 3, []]
        ),
        "shape": st.one_of(st.lists(NUMBERS, max_size=3), NUMBERS),
        "data_offsets": st.one_of(st.lists(NUMBERS, min_size=1, max_size=3), NUMBERS),
        "other": NUMBERS,
    },
)
KEYS = st.one_of(st.sampled_from(["a", "b", "__metadata__", ""]), st.text(max_size=3))
HEADERS = st.one_of(
    st.dictionaries(KEYS, st.one_of(ENTRIES, NUMBERS, st.dictionaries(KEYS, KEYS, max_size=2)), max_size=4),
    st.recursive(NUMBERS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=6),
)


def judged(content: bytes) -> None:
    """Only our own error may escape; what we accept, the format's own library must read to the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(content)
        try:
            with TensorFile(path) as ours:
                read = {key: ours.read(key) for key in ours}
        except CheckpointError:
            return
        with safe_open(path, "pt") as theirs:
            assert sorted(theirs.keys()) == sorted(read)
            for key, tensor in read.items():
                other = theirs.get_tensor(key)
                assert tensor.dtype == other.dtype
                assert tensor.shape == other.shape
                if tensor.dtype == torch.bool:  # a byte of 2 is true as well
                    assert torch.equal(
                        tensor.view(torch.uint8), other.view(torch.uint8).ne(0).view(torch.uint8)
                    )
                elif tensor.numel() and tensor.dim():
                    assert torch.equal(tensor.view(torch.uint8), other.view(torch.uint8))


QUICK = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(header=HEADERS, data=st.binary(max_size=24))
def test_hostile_headers(header: object, data: bytes) -> None:
    text = json.dumps(header).encode()
    judged(len(text).to_bytes(8, "little") + text + data)


@QUICK
@given(
    content=st.one_of(
        st.binary(max_size=80), st.binary(max_size=40).map(lambda b: b"\x10" + bytes(7) + b"{" + b)
    )
)
def test_hostile_bytes(content: bytes) -> None:
    judged(content)


VALID = {
    "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b": {"dtype": "BOOL", "shape": [], "data_offsets": [12, 13]},
    "c": {"dtype": "I64", "shape": [0, 5], "data_offsets": [13, 13]},
    "__metadata__": {"k": "v"},
}


@QUICK
@given(data=st.data())
def test_damaged_files(data: st.DataObject) -> None:
    text = json.dumps(VALID).encode()
    content = bytearray(len(text).to_bytes(8, "little") + text + bytes(range(1, 13)) + b"\x01")
    if data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    judged(bytes(content[:cut]) if data.draw(st.booleans()) else bytes(content))


@settings(max_examples=100, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=4),
    dtype=st.sampled_from(["F32", "F16", "BF16", "U8", "F8_E4M3", "F8_E5M2", "I64"]),
)
def test_what_the_library_accepts_is_accepted(shapes: list[list[int]], dtype: str) -> None:
    sizes = {"F32": 4, "I64": 8, "F16": 2, "BF16": 2}
    header, offset = {}, 0
    for index, shape in enumerate(shapes):
        stop = offset + int(torch.Size(shape).numel()) * sizes.get(dtype, 1)
        header[f"t{index}"] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, stop]}
        offset = stop
    with tempfile.TemporaryDirectory() as folder:
        path = raw_file(Path(folder) / "x.safetensors", header, bytes(offset))
        try:
            with safe_open(path, "pt") as theirs:
                assert sorted(theirs.keys()) == sorted(header)
        except SafetensorError:
            return
        with TensorFile(path) as ours:
            assert {key: list(ours.shape(key)) for key in ours} == {f"t{i}": s for i, s in enumerate(shapes)}
