"""Groups of tensors in append-only safetensors files: what the caches are made of.

Shards (laid out as `blocks` says) appear by an atomic rename and never change, so any number of processes may
read and write at once; the index is rebuilt from the headers. A file that was cut off by a crash has no name that is
looked at.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TypeVar

import torch

from velatura.checkpoints.header import read_header
from velatura.checkpoints.writing import write_safetensors
from velatura.data.caches.blocks import Block, Group, blocks_of, pack, read_row_into, read_rows
from velatura.errors import CheckpointError, StorageError
from velatura.events import Events

T = TypeVar("T")

_ABANDONED = 24 * 3600  # seconds after which a staged file is taken to be a crash's remains


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a group lies."""

    shard: Path
    block: Block
    row: int


class ShardStore:
    """The groups in the shards of a folder. A damaged shard is deleted, so that its groups are made again."""

    def __init__(self, folder: Path, events: Events) -> None:
        self.folder = folder
        self._events = events
        self._places: dict[str, _Place] = {}
        self._known: set[str] = set()
        self._sweep()
        self.refresh()

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def keys(self) -> list[str]:
        """The keys of all groups."""
        return list(self._places)

    def shards_of(self, keys: Iterable[str]) -> frozenset[Path]:
        """The files that hold any of these groups."""
        return frozenset(self._places[key].shard for key in keys if key in self._places)

    def refresh(self) -> None:
        """Take notice of shards that other processes wrote meanwhile."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._known:
                self._known.add(path.name)
                self._index(path)

    def read(self, keys: Iterable[str]) -> Iterator[tuple[str, Group]]:
        """The groups of those keys that are there and sound, in the order in which they lie on the disk."""
        by_shard: dict[Path, list[str]] = {}
        for key in keys:
            if key in self._places:
                by_shard.setdefault(self._places[key].shard, []).append(key)
        for shard, wanted in by_shard.items():
            yield from self._opened(shard, partial(self._groups, wanted)) or ()

    def form(self, key: str) -> Group | None:
        """A group's tensors without their content, on the meta device; None where it is not there."""
        place = self._places.get(key)
        if place is None:
            return None
        entries = place.block.entries.items()
        return {name: torch.empty(one.shape[1:], dtype=one.dtype, device="meta") for name, one in entries}

    def read_into(self, key: str, group: Group) -> bool:
        """Read a group into contiguous tensors of its form; False when it is not there, or not sound."""
        place = self._places.get(key)
        if place is None:
            return False

        def read(file: FileIO) -> bool:
            read_row_into(file, place.block, place.row, group)
            return True

        return self._opened(place.shard, read) or False

    def write(self, groups: Mapping[str, Group]) -> None:
        """Append groups as one new shard; those that are there already are skipped. Raises StorageError."""
        self.refresh()
        new = {key: group for key, group in groups.items() if key not in self._places}
        if not new:
            return
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        write_safetensors(path, *pack(new))
        self.refresh()

    def _sweep(self) -> None:
        """Remove staged files that a crash left behind a day ago or earlier."""
        for path in self.folder.glob(".*.partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()

    def _index(self, path: Path) -> None:
        try:
            with FileIO(path, "rb") as file:
                blocks = blocks_of(read_header(file, path))
        except FileNotFoundError:
            return  # another process found it damaged
        except CheckpointError as error:
            self._discard(path, str(error))
            return
        except OSError as error:
            raise StorageError(f"cache file {path} cannot be read: {error.strerror or error}.") from error
        for block in blocks:
            for row, key in enumerate(block.keys):
                self._places.setdefault(key, _Place(shard=path, block=block, row=row))

    def _groups(self, keys: Iterable[str], file: FileIO) -> list[tuple[str, Group]]:
        """Groups of one shard."""
        rows: dict[int, tuple[Block, list[int]]] = {}
        for key in keys:
            place = self._places[key]
            rows.setdefault(id(place.block), (place.block, []))[1].append(place.row)
        return [found for block, wanted in rows.values() for found in read_rows(file, block, sorted(wanted))]

    def _opened(self, shard: Path, read: Callable[[FileIO], T]) -> T | None:
        """What `read` makes of a shard; None for one that is gone or damaged, which is forgotten."""
        try:
            with FileIO(shard, "rb") as file:
                found = read(file)
            with suppress(OSError):
                os.utime(shard)  # `upkeep` removes what was not used for long
            return found
        except FileNotFoundError:
            self._forget(shard)
        except PermissionError as error:
            raise StorageError(f"cache file {shard} cannot be read: {error.strerror}.") from error
        except (OSError, CheckpointError) as error:
            self._discard(shard, str(error))
        return None

    def _discard(self, shard: Path, reason: str) -> None:
        self._forget(shard)
        with suppress(OSError):
            shard.unlink()
        self._events.warn(f"cache file {shard.name} was damaged ({reason}); what it held is made again.")

    def _forget(self, shard: Path) -> None:
        self._places = {key: place for key, place in self._places.items() if place.shard != shard}
