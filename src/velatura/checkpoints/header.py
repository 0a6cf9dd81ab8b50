"""The header of a safetensors file, checked before a byte of it is trusted.

The layout: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes. The JSON maps
names to `{"dtype", "shape", "data_offsets": [start, end]}`, offsets counted from the end of the header, and
may hold `__metadata__`, strings only. The data must be covered without a hole or an overlap.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

import torch

from velatura.checkpoints.checkpoint import TensorInfo
from velatura.errors import CheckpointError
from velatura.plural import counted

MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own library
MAX_RANK = 8
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
_DISGUISES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights: run `git lfs pull`"),
    (b"PK\x03\x04", "a zip or a PyTorch pickle where safetensors are needed"),
    (b"\x80", "a pickle where safetensors are needed"),
    (b"<", "a web page, not the weights: the download failed or asked for a login; download it again"),
    (b"GGUF", "a GGUF file: download the safetensors"),
)


@dataclass(frozen=True, kw_only=True)
class Entry(TensorInfo):
    """One tensor of the file: its bytes are `[start, stop)` counted from the start of the file."""

    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """A valid header: the tensors in the order of their bytes, the metadata, and the bytes of the JSON."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    raw: bytes


def read_header(file: FileIO, path: Path) -> Header:
    """Read and check the header of an open file. Raises CheckpointError that says what is wrong with it."""
    size = os.fstat(file.fileno()).st_size
    raw = _raw_header(file, path, size)
    document = _parse(raw, path)
    metadata = _metadata(document.pop("__metadata__", {}), path)
    base = 8 + len(raw)
    entries = {name: _entry(name, value, path, base, size) for name, value in document.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    _check_cover(ordered, path, base, size)
    return Header(entries=ordered, metadata=metadata, raw=raw)


def _refuse(path: Path, problem: str) -> NoReturn:
    raise CheckpointError(f"{path}: {problem}. The file is damaged or unsafe: get it again from its source.")


def _raw_header(file: FileIO, path: Path, size: int) -> bytes:
    start = file.read(64)
    length = int.from_bytes(start[:8], "little")
    limit = min(MAX_HEADER_BYTES, size - 8)
    if len(start) < 8 or not 2 <= length <= limit:
        for magic, meaning in _DISGUISES:
            if start.startswith(magic):
                raise CheckpointError(f"{path}: this is {meaning}.")
        if len(start) < 8:
            _refuse(
                path, f"{counted(size, 'byte')}, expected at least 8: it is empty, or the download stopped"
            )
        _refuse(path, f"its header claims {length} bytes, expected 2 to {limit} (the file has {size})")
    file.seek(8)
    raw = file.read(length)
    if len(raw) != length or raw[:1] != b"{":
        _refuse(path, f"its header starts with {raw[:8]!r}, expected '{{'")
    return raw


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{reprlib.repr(twice)} stands in it twice")
        return record

    def no_constant(text: str) -> None:
        raise ValueError(f"{text} is not a JSON number")

    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its header is not valid JSON: {error}")
    if not isinstance(document, dict):
        _refuse(path, f"its header is a JSON {type(document).__name__}, expected an object")
    return document


def _metadata(value: object, path: Path) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        _refuse(path, f"its __metadata__ is {reprlib.repr(value)}, expected an object of strings")
    for text in (*value.keys(), *value.values()):
        _check_text(text, path)
    return value


def _check_text(text: str, path: Path) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which JSON escapes allow and files and terminals do not
        _refuse(path, f"its header has the text {reprlib.repr(ascii(text))}, which is not valid Unicode")


def _entry(name: str, value: object, path: Path, base: int, size: int) -> Entry:
    _check_text(name, path)
    label = f"tensor {reprlib.repr(name)}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        _refuse(
            path, f"{label} is {reprlib.repr(value)}, expected an object with dtype, shape and data_offsets"
        )
    if not isinstance(value["dtype"], str) or value["dtype"] not in DTYPES:
        _refuse(
            path, f"{label} has dtype {reprlib.repr(value['dtype'])}, expected one of {', '.join(DTYPES)}"
        )
    shape, offsets = value["shape"], value["data_offsets"]
    if not _naturals(shape) or len(shape) > MAX_RANK or math.prod(max(size, 1) for size in shape) >= 2**59:
        _refuse(path, f"{label} has shape {reprlib.repr(shape)}, expected at most {MAX_RANK} sizes >= 0")
    if not _naturals(offsets) or len(offsets) != 2:
        _refuse(path, f"{label} has data_offsets {reprlib.repr(offsets)}, expected [start, end]")
    start, stop = offsets
    dtype = DTYPES[value["dtype"]]
    needed = math.prod(shape) * dtype.itemsize
    if stop - start != needed:
        _refuse(
            path,
            f"{label} has {counted(stop - start, 'byte')}, expected {needed} for {value['dtype']} {tuple(shape)}",
        )
    if base + stop > size:
        missing = base + stop - size
        _refuse(
            path,
            f"{label} ends {counted(missing, 'byte')} after the end of the file: the download stopped early",
        )
    return Entry(dtype=dtype, shape=tuple(shape), start=base + start, stop=base + stop)


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_cover(entries: Mapping[str, Entry], path: Path, base: int, size: int) -> None:
    end, before = base, "the header"
    for name, entry in entries.items():
        label = f"tensor {reprlib.repr(name)}"
        if entry.start != end:
            kind = "overlaps" if entry.start < end else "leaves a hole after"
            _refuse(path, f"{label} starts at byte {entry.start}, expected {end}: it {kind} {before}")
        end, before = entry.stop, label
    if end != size:
        _refuse(path, f"{counted(size - end, 'byte follows', 'bytes follow')} {before}, expected none")
