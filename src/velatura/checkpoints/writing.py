"""Writing safetensors so that a reader finds the old file or the new one, never half of one."""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from velatura.checkpoints.checkpoint import NO_METADATA
from velatura.checkpoints.header import DTYPE_NAMES, MAX_HEADER_BYTES, MAX_RANK
from velatura.checkpoints.pending import Pending
from velatura.errors import CheckpointError, StorageError

_CHUNK = 16 * 1024 * 1024
_WIDEST_FIRST = (
    torch.uint64,
    torch.int64,
    torch.float64,
    torch.float32,
    torch.uint32,
    torch.int32,
    torch.bfloat16,
    torch.float16,
    torch.uint16,
    torch.int16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.uint8,
    torch.bool,
)


def write_safetensors(
    path: Path | str, tensors: Mapping[str, Tensor | Pending], metadata: Mapping[str, str] = NO_METADATA
) -> None:
    """Write tensors to `path`, replacing what is there in one step once all bytes are on the disk.

    The same tensors and metadata give the same bytes: the order is fixed, nothing is stamped. A Pending is made
    when its turn comes and let go afterwards, so a model can be written without a second copy of it in
    memory. Raises StorageError when the disk has too little room or refuses, CheckpointError for what the
    format cannot hold.
    """
    header = header_bytes(tensors, metadata)
    total = len(header) + payload_size(tensors)

    def write(file: BinaryIO) -> None:
        file.write(header)
        for chunk in payload(tensors):
            file.write(chunk)

    write_atomically(Path(path), write, size=total)


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` in place as a whole. Raises StorageError as `write_atomically`."""
    write_atomically(path, lambda file: file.write(data), size=len(data))


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, size: int) -> None:
    """Let `write` fill a staged file of `size` bytes beside `path`, then put it in place.

    Raises StorageError, with the bytes needed and free, before anything is written.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be written to: {error.strerror}; choose another folder."
        ) from error
    if free < size:
        raise StorageError(
            f"{path} needs {size:,} bytes, {folder} has {free:,} free; make room or choose another folder."
        )
    staged = folder / f".{path.name}.{uuid.uuid4().hex}.partial"
    try:
        with staged.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
        sync_folder(folder)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system has a way to ask for that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def header_bytes(tensors: Mapping[str, Tensor | Pending], metadata: Mapping[str, str] = NO_METADATA) -> bytes:
    """The length field and the JSON, padded with spaces so that the data starts at a multiple of 8."""
    document: dict[str, object] = {}
    if metadata:
        document["__metadata__"] = {key: _text(metadata[key], key) for key in sorted(metadata)}
    offset = 0
    for name in file_order(tensors):
        dtype, shape = _checked(name, tensors[name])
        stop = offset + math.prod(shape) * dtype.itemsize
        document[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"The header takes {len(text):,} bytes, the format allows {MAX_HEADER_BYTES:,}."
        )
    return len(text).to_bytes(8, "little") + text


def file_order(tensors: Mapping[str, Tensor | Pending]) -> list[str]:
    """Names in the order of their bytes, that of the format's own library: by dtype, then by name.

    Wide dtypes come first, so that every tensor starts at a multiple of its item size, which mapping readers need.
    """
    ranks = {dtype: rank for rank, dtype in enumerate(_WIDEST_FIRST)}
    return sorted(tensors, key=lambda name: (ranks.get(tensors[name].dtype, -1), name))


def payload_size(tensors: Mapping[str, Tensor | Pending]) -> int:
    """Bytes of all tensors."""
    return sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors.values())


def payload(tensors: Mapping[str, Tensor | Pending]) -> Iterator[memoryview]:
    """The tensors' bytes in the order of the file, in pieces of at most 16 MiB."""
    for name in file_order(tensors):
        item = tensors[name]
        tensor = item.make() if isinstance(item, Pending) else item
        if tuple(tensor.shape) != tuple(item.shape) or tensor.dtype != item.dtype:
            made = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise CheckpointError(f"'{name}' was to be {item.dtype} {tuple(item.shape)}, it became {made}.")
        whole = tensor.detach().contiguous()
        flat = whole.as_strided((whole.numel(),), (1,))  # a single value may have any stride
        step = _CHUNK // tensor.dtype.itemsize
        for begin in range(0, flat.numel(), step):
            yield flat[begin : begin + step].cpu().view(torch.uint8).numpy().data


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise CheckpointError(f"Metadata '{key}' is a {type(value).__name__}, the format holds strings only.")
    return value


def _checked(name: str, tensor: Tensor | Pending) -> tuple[torch.dtype, tuple[int, ...]]:
    if name == "__metadata__" or tensor.dtype not in DTYPE_NAMES or len(tensor.shape) > MAX_RANK:
        raise CheckpointError(
            f"'{name}' ({tensor.dtype}, shape {tuple(tensor.shape)}) cannot be held by safetensors."
        )
    return tensor.dtype, tuple(tensor.shape)
