"""The index: one SQLite file in the cache folder that tells of every scanned file what was found in it.

Of files that hold many others, such as tar shards, it also has the listing.

Any number of processes may use it at once. It only saves time: when it is damaged it is begun anew, when it is locked
or cannot be written a scan goes on without it; either is a warning.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from velatura.data.captions import Origin
from velatura.events import Events

FILE = "index.sqlite"
_FORMAT = 4  # of the tables, and of what `probe` and `read_caption` make of a file's bytes
_PATIENCE = 10.0  # seconds that another process may hold the file
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR)
_DAY = 24 * 3600

# size in bytes, modified and changed in ns; thorough 0 or 1, width and height in pixels, content hash, frames
ImageRow = tuple[int, int, int, int, int, int, str, int]
CaptionRow = tuple[int, int, int, str, Origin]
# size, modified and changed of a file, and what is in it, as its reader writes it
ListingRow = tuple[int, int, int, str]
T = TypeVar("T")

_TABLES = """
CREATE TABLE sources (id INTEGER PRIMARY KEY, root TEXT NOT NULL UNIQUE, used INTEGER NOT NULL);
CREATE TABLE images (
    source INTEGER NOT NULL REFERENCES sources ON DELETE CASCADE, key TEXT NOT NULL,
    size INTEGER NOT NULL, modified INTEGER NOT NULL, changed INTEGER NOT NULL, thorough INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, content TEXT NOT NULL, frames INTEGER NOT NULL,
    PRIMARY KEY (source, key)
) WITHOUT ROWID;
CREATE TABLE captions (
    source INTEGER NOT NULL REFERENCES sources ON DELETE CASCADE, key TEXT NOT NULL,
    size INTEGER NOT NULL, modified INTEGER NOT NULL, changed INTEGER NOT NULL,
    text TEXT NOT NULL, origin TEXT NOT NULL,
    PRIMARY KEY (source, key)
) WITHOUT ROWID;
CREATE TABLE listings (
    source INTEGER NOT NULL REFERENCES sources ON DELETE CASCADE, key TEXT NOT NULL,
    size INTEGER NOT NULL, modified INTEGER NOT NULL, changed INTEGER NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (source, key)
);
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What is known of files, by the keys of their places."""

    images: dict[str, ImageRow] = field(default_factory=dict)
    captions: dict[str, CaptionRow] = field(default_factory=dict)


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
        return self._attempt(lambda connection: _load(connection, _storable(root))) or Rows()

    def save(self, root: str, new: Rows, gone: Sequence[str]) -> None:
        """Add or replace rows of a source, take those of the keys in `gone` out, and note that it was used."""
        self._attempt(lambda connection: _save(connection, _storable(root), new, gone))

    def listings(self, root: str) -> dict[str, ListingRow]:
        """The listings of a source's files, by path."""
        if not self._path.exists():
            return {}
        return self._attempt(lambda connection: _load_listings(connection, _storable(root))) or {}

    def save_listings(self, root: str, new: Mapping[str, ListingRow], gone: Sequence[str]) -> None:
        """Add or replace listings of a source, and take those of the files in `gone` out."""
        if new or gone:
            self._attempt(lambda connection: _save_listings(connection, _storable(root), new, gone))

    def forget(self, *, days: float) -> int:
        """Take out the sources that were not scanned for so many days; how many there were."""
        if not self._path.exists():
            return 0
        return self._attempt(lambda connection: _forget(connection, time.time() - days * _DAY)) or 0

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
            if connection.execute("PRAGMA user_version").fetchone() != (_FORMAT,):
                _begin_anew(connection)
            yield connection

    def _discard(self) -> None:
        for ending in ("", "-wal", "-shm"):
            self._path.with_name(FILE + ending).unlink(missing_ok=True)


def _begin_anew(connection: sqlite3.Connection) -> None:
    """Make the tables; those of another version of this file are dropped."""
    with _writing(connection):
        if connection.execute("PRAGMA user_version").fetchone() == (_FORMAT,):
            return  # another process was quicker
        for table in ("images", "captions", "listings", "sources"):
            connection.execute(f"DROP TABLE IF EXISTS {table}")
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_FORMAT}")


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that holds the file from its beginning, so that it cannot fail in the middle."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _load(connection: sqlite3.Connection, root: str) -> Rows:
    wanted = "FROM {} WHERE source = (SELECT id FROM sources WHERE root = ?)"
    images = connection.execute(
        "SELECT key, size, modified, changed, thorough, width, height, content, frames "
        + wanted.format("images"),
        (root,),
    )
    captions = connection.execute(
        "SELECT key, size, modified, changed, text, origin " + wanted.format("captions"), (root,)
    )
    return Rows(
        images={row[0]: row[1:] for row in images},
        captions={row[0]: row[1:] for row in captions},
    )


def _save(connection: sqlite3.Connection, root: str, new: Rows, gone: Sequence[str]) -> None:
    now = int(time.time())
    used = connection.execute("SELECT used FROM sources WHERE root = ?", (root,)).fetchone()
    if used and now - used[0] < _DAY and not (new.images or new.captions or gone):
        return  # nothing to write: a warm start holds nobody up
    with _writing(connection):
        source = _used(connection, root, now)
        connection.executemany(
            "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((source, _storable(key), *row) for key, row in new.images.items()),
        )
        connection.executemany(
            "INSERT OR REPLACE INTO captions VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((source, _storable(key), *row) for key, row in new.captions.items()),
        )
        for table in ("images", "captions"):
            connection.executemany(
                f"DELETE FROM {table} WHERE source = ? AND key = ?", ((source, key) for key in gone)
            )


def _used(connection: sqlite3.Connection, root: str, now: int) -> int:
    """The id of a source that is used now."""
    connection.execute(
        "INSERT INTO sources (root, used) VALUES (?, ?) ON CONFLICT (root) DO UPDATE SET used = excluded.used",
        (root, now),
    )
    (source,) = connection.execute("SELECT id FROM sources WHERE root = ?", (root,)).fetchone()
    return int(source)


def _load_listings(connection: sqlite3.Connection, root: str) -> dict[str, ListingRow]:
    rows = connection.execute(
        "SELECT key, size, modified, changed, content FROM listings "
        "WHERE source = (SELECT id FROM sources WHERE root = ?)",
        (root,),
    )
    return {row[0]: row[1:] for row in rows}


def _save_listings(
    connection: sqlite3.Connection, root: str, new: Mapping[str, ListingRow], gone: Sequence[str]
) -> None:
    with _writing(connection):
        source = _used(connection, root, int(time.time()))
        connection.executemany(
            "INSERT OR REPLACE INTO listings VALUES (?, ?, ?, ?, ?, ?)",
            ((source, _storable(key), *row) for key, row in new.items()),
        )
        connection.executemany(
            "DELETE FROM listings WHERE source = ? AND key = ?", ((source, key) for key in gone)
        )


def _forget(connection: sqlite3.Connection, before: float) -> int:
    with _writing(connection):
        return connection.execute("DELETE FROM sources WHERE used < ?", (before,)).rowcount


def _storable(name: str) -> str:
    """A file's name as text that SQLite takes; one that is no text (bytes of another encoding) is never met again."""
    return name.encode("utf-8", "backslashreplace").decode()
