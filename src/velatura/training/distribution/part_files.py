"""Tensors of which each process writes its part, by torch's distributed checkpointing; read back by any number of them.

The files are safetensors with the parts' offsets in their metadata: nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save

from velatura.checkpoints.reader import TensorFile
from velatura.errors import CheckpointError, StorageError
from velatura.training.distribution.team import Team

OFFSETS = "DCP_SHARDING_INFO"


@dataclass(frozen=True, kw_only=True)
class _Part:
    file: Path
    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def place(self) -> tuple[slice, ...]:
        return tuple(slice(start, start + size) for start, size in zip(self.offsets, self.shape, strict=True))


def write_parts(folder: Path, tensors: Mapping[str, Tensor], team: Team) -> None:
    """Write what this process holds of each tensor into files in `folder`; all processes must call it.

    What all hold whole is written once. Raises StorageError.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer, process_group=team.control)
    except CheckpointException as error:  # it is no Exception, and would pass by all that handle one
        raise StorageError(
            "; ".join(dict.fromkeys(str(why) for why, _ in error.failures.values()))
        ) from error


class PartFiles(Mapping[str, Tensor]):
    """The tensors in a folder of parts; each is put together when it is asked for. Raises CheckpointError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: dict[str, list[_Part]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with TensorFile(path) as file:
                told = json.loads(file.metadata[OFFSETS])
                for key in file:
                    offsets = tuple(int(offset) for offset in told[key]["saved_offsets"])
                    part = _Part(file=path, offsets=offsets, shape=tuple(file.shape(key)))
                    self._parts.setdefault(key, []).append(part)

    def __getitem__(self, key: str) -> Tensor:
        parts = self._parts[key]
        shape = [
            max(at.stop for at in places) for places in zip(*(part.place for part in parts), strict=True)
        ]
        if sum(torch.Size(part.shape).numel() for part in parts) != torch.Size(shape).numel():
            raise CheckpointError(f"{self._folder}: '{key}' is not there as a whole")
        whole: Tensor | None = None
        for part in parts:
            with TensorFile(part.file) as file:
                held = file.read(key)
            if len(parts) == 1:
                return held
            whole = torch.empty(shape, dtype=held.dtype) if whole is None else whole
            whole[part.place] = held
        assert whole is not None
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)
