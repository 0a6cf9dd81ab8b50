"""Collects groups until a shard is worth writing, and leaves nothing behind when it is interrupted."""

from __future__ import annotations

import time
from types import TracebackType

from velatura.data.caches.blocks import Group
from velatura.data.caches.shards import ShardStore

SHARD_BYTES = 64 * 2**20
_AT_LEAST_EVERY = 20.0  # seconds: what a kill can cost


class ShardWriter:
    """Use in `with`: what was put is on the disk when the block ends, also by an error or Ctrl-C."""

    def __init__(self, store: ShardStore) -> None:
        self._store = store
        self._groups: dict[str, Group] = {}
        self._bytes = 0
        self._flushed = time.monotonic()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def put(self, key: str, group: Group) -> None:
        """Add a group; a full shard is written. Raises StorageError."""
        self._groups[key] = group
        self._bytes += sum(tensor.nbytes for tensor in group.values())
        if self._bytes >= SHARD_BYTES or time.monotonic() - self._flushed >= _AT_LEAST_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        groups, self._groups, self._bytes = self._groups, {}, 0
        if groups:
            self._store.write(groups)
        self._flushed = time.monotonic()
