"""What every weights file looks like to the rest: named tensors that are read one by one."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import torch
from torch import Tensor

from velatura.errors import CheckpointError
from velatura.plural import counted

Shape = tuple[int, ...]
Rows = tuple[int, int]  # half-open
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
NO_METADATA: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What is known of a tensor before it is read."""

    shape: Shape
    dtype: torch.dtype

    @property
    def all_rows(self) -> Rows:
        """The range of its first dimension; a single number counts as one row."""
        return (0, self.shape[0] if self.shape else 1)


class Checkpoint(ABC):
    """Named tensors in one or more files. `name` is for messages, `paths` are the files."""

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        *,
        name: str,
        paths: tuple[Path, ...],
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> None:
        self.tensors = tensors
        self.name = name
        self.paths = paths
        self.metadata = metadata

    @abstractmethod
    def _read(self, key: str, rows: Rows, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """A fresh contiguous tensor of the checked `rows` of a tensor that is there."""

    def read(
        self,
        key: str,
        *,
        rows: Rows | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """A fresh tensor: all of it, or rows `[start, stop)` of its first dimension.

        dtype: None keeps the stored one. On the meta device nothing is read. Raises CheckpointError for an
        unknown key or rows that are not there.
        """
        info = self.info(key)
        start, stop = rows if rows is not None else info.all_rows
        if not 0 <= start <= stop <= info.all_rows[1]:
            problem = f"rows {start} to {stop} of '{key}' were asked for, its shape is {info.shape}"
            raise CheckpointError(f"{self.name}: {problem}.")
        return self._read(key, (start, stop), dtype or info.dtype, device)

    def in_fp8(self, key: str) -> bool:
        """Whether a matrix is stored in 8-bit floating numbers."""
        return self.dtype(key) in FP8 and len(self.shape(key)) == 2

    def read_fp8(
        self, key: str, *, rows: Rows | None = None, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """A matrix as it is stored: 8-bit values `[n, k]`, and what they are multiplied by, float32.

        That is `[n, 1]`, or `[n, blocks]`: a number for each of so many equal parts of a row.
        """
        values = self.read(key, rows=rows, device=device)
        return values, torch.ones(len(values), 1, device=device)

    def close(self) -> None:
        """Let go of open files; later reads raise. Works as a context manager too."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def info(self, key: str) -> TensorInfo:
        """Shape and stored dtype of a tensor. Raises CheckpointError if it is not here."""
        if key in self.tensors:
            return self.tensors[key]
        near = difflib.get_close_matches(key, self.tensors, n=1)
        hint = f"; the nearest is '{near[0]}'" if near else ""
        raise CheckpointError(f"{self.name}: no tensor '{key}' among its {len(self.tensors)}{hint}.")

    def keys(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return tuple(self.tensors)

    def shape(self, key: str) -> Shape:
        """Shape of a tensor, without reading it."""
        return self.info(key).shape

    def sizes(self, key: str, count: int) -> Shape:
        """The shape of a tensor that must have so many dimensions, none of them empty. Raises CheckpointError."""
        shape = self.shape(key)
        if len(shape) != count or not all(shape):
            sizes = counted(count, "size")
            raise CheckpointError(f"{self.name}: '{key}' has shape {shape}, expected {sizes} above 0.")
        return shape

    def dtype(self, key: str) -> torch.dtype:
        """Stored dtype of a tensor, without reading it."""
        return self.info(key).dtype

    def under(self, prefix: str) -> Checkpoint:
        """The tensors whose names start with `prefix`, without it; the others are not seen."""
        return _Renamed(self, {key.removeprefix(prefix): key for key in self if key.startswith(prefix)})

    def __contains__(self, key: object) -> bool:
        return key in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {counted(len(self), 'tensor')})"


class _Renamed(Checkpoint):
    """Some tensors of another checkpoint under other names."""

    def __init__(self, base: Checkpoint, there: Mapping[str, str]) -> None:
        tensors = {here: base.tensors[key] for here, key in there.items()}
        super().__init__(tensors, name=base.name, paths=base.paths, metadata=base.metadata)
        self._base = base
        self._there = there

    def in_fp8(self, key: str) -> bool:
        return self._base.in_fp8(self._there[key])

    def read_fp8(
        self, key: str, *, rows: Rows | None = None, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        return self._base.read_fp8(self._there[key], rows=rows, device=device)

    def close(self) -> None:
        self._base.close()

    def _read(self, key: str, rows: Rows, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        return self._base.read(self._there[key], rows=rows, dtype=dtype, device=device)


class TensorDict(Checkpoint):
    """Tensors that are in memory already, under the interface of a file."""

    def __init__(
        self,
        values: Mapping[str, Tensor],
        *,
        name: str = "tensors in memory",
        paths: tuple[Path, ...] = (),
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> None:
        infos = {
            key: TensorInfo(shape=tuple(value.shape), dtype=value.dtype) for key, value in values.items()
        }
        super().__init__(infos, name=name, paths=paths, metadata=metadata)
        self._values = values

    def _read(self, key: str, rows: Rows, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        value = self._values[key].detach()
        part = value[slice(*rows)] if value.dim() else value
        return part.to(device=device, dtype=dtype, copy=True).contiguous()
