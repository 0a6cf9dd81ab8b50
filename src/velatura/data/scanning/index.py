"""The index: one SQLite file in the cache folder that tells of every scanned file what was found in it.

Of files that hold many others, such as tar shards, it also has the listing; of sources whose files were all sound, a
snapshot.

Any number of processes may use it at once. It only saves time: when it is damaged it is begun anew, when it is locked
or cannot be written a scan goes on without it; either is a warning.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from velatura.data.scanning import index_tables as tables
from velatura.data.scanning.index_tables import ListingRow, Rows, storable
from velatura.events import Events

FILE = "index.sqlite"
_PATIENCE = 10.0  # seconds that another process may hold the file
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR)
_DAY = 24 * 3600

T = TypeVar("T")


class Index:
    """The rows of each source; a source goes by the folder or file that it was read from.

    Once it could not be used it is not tried again: each attempt may wait for its time, and be told.
    """

    def __init__(self, folder: Path, events: Events) -> None:
        self._path = folder / FILE
        self._events = events
        self._usable = True

    def load(self, root: str) -> Rows:
        """All rows of a source; none where there is no index, or none that can be read."""
        if not self._path.exists():
            return Rows()
        return self._attempt(lambda connection: tables.load_rows(connection, storable(root))) or Rows()

    def save(self, root: str, new: Rows, gone: Sequence[str]) -> None:
        """Add or replace rows of a source, take those of the keys in `gone` out, and note that it was used."""
        self._attempt(lambda connection: tables.save_rows(connection, storable(root), new, gone))

    def listings(self, root: str) -> dict[str, ListingRow]:
        """The listings of a source's files, by path."""
        if not self._path.exists():
            return {}
        return self._attempt(lambda connection: tables.load_listings(connection, storable(root))) or {}

    def save_listings(self, root: str, new: Mapping[str, ListingRow], gone: Sequence[str]) -> None:
        """Add or replace listings of a source, and take those of the files in `gone` out."""
        if new or gone:
            self._attempt(lambda connection: tables.save_listings(connection, storable(root), new, gone))

    def snapshot(self, root: str, key: str) -> bytes | None:
        """What was saved of a source under this key; None where there is none, or where it is damaged."""
        if not self._path.exists():
            return None
        return self._attempt(lambda connection: tables.load_snapshot(connection, storable(root), key))

    def save_snapshot(self, root: str, key: str, content: bytes) -> None:
        """Keep a snapshot of a source; of several under different keys the latest few stay."""
        self._attempt(lambda connection: tables.save_snapshot(connection, storable(root), key, content))

    def forget(self, *, days: float) -> int:
        """Take out the sources that were not scanned for so many days; how many there were."""
        if not self._path.exists():
            return 0
        return self._attempt(lambda connection: tables.forget(connection, time.time() - days * _DAY)) or 0

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run `work` on the open index; a damaged one is begun anew and `work` run on that. None if it cannot be."""
        if not self._usable:
            return None
        try:
            with self._open() as connection:
                return work(connection)
        except (sqlite3.Error, OSError) as error:
            if (
                getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGE
            ):  # locked, no permission, disk full
                self._events.warn(
                    f"the index {self._path} cannot be used now ({error}); going on without it."
                )
                self._usable = False
                return None
            self._events.warn(f"the index {self._path} is damaged ({error}) and is begun anew.")
        with suppress(sqlite3.Error, OSError):
            self._discard()
            with self._open() as connection:
                return work(connection)
        return None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # readers do not wait for writers
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            if connection.execute("PRAGMA user_version").fetchone() != (tables.FORMAT,):
                tables.begin_anew(connection)
            yield connection

    def _discard(self) -> None:
        for ending in ("", "-wal", "-shm"):
            self._path.with_name(FILE + ending).unlink(missing_ok=True)
