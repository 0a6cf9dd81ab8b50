"""From a path to a Checkpoint: one file, shards, a folder, or a pickle that holds nothing but tensors."""

from __future__ import annotations

import json
import os
import pickle
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from velatura.checkpoints.checkpoint import Checkpoint, Rows, TensorDict
from velatura.checkpoints.reader import TensorFile, open_file
from velatura.checkpoints.scaled import with_scales_applied
from velatura.errors import CheckpointError
from velatura.plural import counted

_SAFETENSORS = (".safetensors", ".sft")
_PICKLES = (".pt", ".pth", ".ckpt", ".bin")
WEIGHTS = (*_SAFETENSORS, *_PICKLES)  # how weights files end; what they are, their first bytes say
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # torch.save writes zips; before 2020, pickles of protocol 2
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors$")
_INDEX = ".safetensors.index.json"
_USUAL = ("diffusion_pytorch_model.safetensors", "model.safetensors")


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open weights for reading; no tensor is read yet (a pickle is mapped where its format allows).

    `path` may be a safetensors file, one shard of several, a `*.safetensors.index.json`, a folder that holds one
    model, or a pickle, which is read with `weights_only=True`. What a file is, its first bytes say, whatever its name.
    fp8 files that carry scales are read with their scales applied. Raises CheckpointError that says what was found
    and what to give instead.
    """
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112 - which does not raise for a name that is too long
        checkpoint = _open_folder(path)
    elif path.name.endswith(_INDEX):
        checkpoint = _open_index(path)
    elif (shard := _SHARD.match(path.name)) is not None:
        checkpoint = _open_shards(path.parent, shard["stem"])
    else:
        checkpoint = _open_file(path)
    return with_scales_applied(checkpoint)


class Joined(Checkpoint):
    """Several files seen as one. Raises CheckpointError for a tensor that is in two of them."""

    def __init__(self, parts: Sequence[Checkpoint], *, name: str) -> None:
        self._home: dict[str, Checkpoint] = {}
        for part in parts:
            for key in part:
                if key in self._home:
                    raise CheckpointError(
                        f"{name}: '{key}' is in {self._home[key].name} and again in {part.name}."
                    )
                self._home[key] = part
        tensors = {key: part.tensors[key] for key, part in self._home.items()}
        paths = tuple(path for part in parts for path in part.paths)
        super().__init__(tensors, name=name, paths=paths, metadata=parts[0].metadata)
        self._parts = parts

    def close(self) -> None:
        """Close all files."""
        for part in self._parts:
            part.close()

    def _read(self, key: str, rows: Rows, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        return self._home[key].read(key, rows=rows, dtype=dtype, device=device)


def _open_file(path: Path) -> Checkpoint:
    with open_file(path) as file:
        start = file.read(9) or b""
    pickled = start.startswith((_ZIP, _PICKLE)) and start[8:] != b"{"  # which begins a safetensors header
    return _open_pickle(path, mappable=start.startswith(_ZIP)) if pickled else TensorFile(path)


def _open_folder(folder: Path) -> Checkpoint:
    indexes = sorted(folder.glob("*" + _INDEX))
    files = sorted(file for kind in _SAFETENSORS for file in folder.glob(f"*{kind}"))
    stems = sorted({shard["stem"] for file in files if (shard := _SHARD.match(file.name))})
    singles = [file for file in files if not _SHARD.match(file.name)]
    usual = [file for file in singles if file.name in _USUAL]
    if len(indexes) == 1 and not usual:
        return _open_index(indexes[0])
    if (len(singles) == 1 and not stems) or len(usual) == 1:
        return _open_file((usual or singles)[0])
    if len(stems) == 1 and not singles:
        return _open_shards(folder, stems[0])
    pickles = sorted(file for file in folder.iterdir() if file.suffix in _PICKLES)
    if not files and len(pickles) == 1:
        return _open_file(pickles[0])
    found = ", ".join(file.name for file in (*files, *pickles)[:5]) or "no weights file"
    raise CheckpointError(
        f"{folder}: expected the weights of one model, found {found}; give the path of the file."
    )


def _open_index(index: Path) -> Checkpoint:
    try:
        document: Any = json.loads(index.read_text("utf-8"))
        weight_map = document["weight_map"]
        names = sorted(set(weight_map.values()))
        if not names:
            raise ValueError("it names no file")
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: not a readable index of shards ({type(error).__name__}: {error})."
        ) from error
    for name in names:
        plain = isinstance(name, str) and name == PurePosixPath(name).name == PureWindowsPath(name).name
        if not plain or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: it names the file {reprlib.repr(name)}, expected a .safetensors name in this folder."
            )
    joined = Joined([TensorFile(index.parent / name) for name in names], name=str(index))
    missing = sorted(set(weight_map) - set(joined))
    if missing:
        count = counted(len(missing), "of its tensors is", "of its tensors are")
        raise CheckpointError(f"{index}: {count} in no shard, first {reprlib.repr(missing[0])}.")
    return joined


def _open_shards(folder: Path, stem: str) -> Checkpoint:
    index = folder / (stem + _INDEX)
    if os.path.isfile(index):  # noqa: PTH113 - as above
        return _open_index(index)
    shards = [shard for file in folder.glob("*.safetensors") if (shard := _SHARD.match(file.name))]
    shards = sorted((shard for shard in shards if shard["stem"] == stem), key=lambda shard: shard["number"])
    counts = {int(shard["count"]) for shard in shards}
    if (
        not shards
        or len(counts) != 1
        or [int(shard["number"]) for shard in shards] != [*range(1, max(counts) + 1)]
    ):
        found = ", ".join(shard.string for shard in shards) or "none"
        raise CheckpointError(
            f"{folder}: the shards of '{stem}' are not complete, found {found}; get the others."
        )
    return Joined([TensorFile(folder / shard.string) for shard in shards], name=str(folder / stem))


def _open_pickle(path: Path, *, mappable: bool) -> Checkpoint:
    mapped = mappable and path.suffix != ".safetensors"  # torch maps by name, and takes this name at its word
    try:
        with path.open("rb") as file:
            source = path if mapped else file
            loaded: object = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        advice = "Convert it to .safetensors with the tool that made it, or get the .safetensors version"
        raise CheckpointError(
            f"{path}: this pickle needs code from the file to be run, refused. {advice}."
        ) from error
    except (
        Exception
    ) as error:  # torch.load has no error type of its own; whatever it is, the file is at fault
        raise CheckpointError(
            f"{path}: not a readable PyTorch file ({type(error).__name__}: {error})."
        ) from error
    tensors: dict[str, Tensor] = {}
    facts: dict[str, str] = {}
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]  # what else a training run put beside it is not weights
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: it holds a {type(loaded).__name__}, expected named tensors.")
    for key, value in loaded.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            tensors[key] = value
        elif isinstance(key, str) and isinstance(value, str | int | float | bool | None):
            facts[key] = str(value)
        else:
            raise CheckpointError(
                f"{path}: its entry {key!r} is a {type(value).__name__}, expected a tensor."
            )
    return TensorDict(tensors, name=str(path), paths=(path,), metadata=facts)
