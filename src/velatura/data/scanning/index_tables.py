"""The tables of the index, and the statements that read and write them."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from velatura.data.text.captions import Origin

FORMAT = 5  # of the tables, and of what `probe` and `read_caption` make of a file's bytes
_SNAPSHOTS = 4  # of one folder: tables may read it in different ways
_DAY = 24 * 3600

# size in bytes, modified and changed in ns; thorough 0 or 1, width and height in pixels, content hash, frames
ImageRow = tuple[int, int, int, int, int, int, str, int]
CaptionRow = tuple[int, int, int, str, Origin]
# size, modified and changed of a file, and what is in it, as its reader writes it
ListingRow = tuple[int, int, int, str]

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
CREATE TABLE snapshots (
    number INTEGER PRIMARY KEY, source INTEGER NOT NULL REFERENCES sources ON DELETE CASCADE,
    key TEXT NOT NULL, checksum TEXT NOT NULL, content BLOB NOT NULL, UNIQUE (source, key)
);
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What is known of files, by the keys of their places."""

    images: dict[str, ImageRow] = field(default_factory=dict)
    captions: dict[str, CaptionRow] = field(default_factory=dict)


def begin_anew(connection: sqlite3.Connection) -> None:
    """Make the tables; those of another version of this file are dropped."""
    with _writing(connection):
        if connection.execute("PRAGMA user_version").fetchone() == (FORMAT,):
            return  # another process was quicker
        for table in ("images", "captions", "listings", "snapshots", "sources"):
            connection.execute(f"DROP TABLE IF EXISTS {table}")
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {FORMAT}")


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


def load_rows(connection: sqlite3.Connection, root: str) -> Rows:
    """All rows of a source."""
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


def save_rows(connection: sqlite3.Connection, root: str, new: Rows, gone: Sequence[str]) -> None:
    """Add or replace rows, take those of the keys in `gone` out, and note that the source was used."""
    now = int(time.time())
    used = connection.execute("SELECT used FROM sources WHERE root = ?", (root,)).fetchone()
    if used and now - used[0] < _DAY and not (new.images or new.captions or gone):
        return  # nothing to write: a warm start holds nobody up
    with _writing(connection):
        source = _used(connection, root, now)
        connection.executemany(
            "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((source, storable(key), *row) for key, row in new.images.items()),
        )
        connection.executemany(
            "INSERT OR REPLACE INTO captions VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((source, storable(key), *row) for key, row in new.captions.items()),
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


def load_listings(connection: sqlite3.Connection, root: str) -> dict[str, ListingRow]:
    """The listings of a source's files, by path."""
    rows = connection.execute(
        "SELECT key, size, modified, changed, content FROM listings "
        "WHERE source = (SELECT id FROM sources WHERE root = ?)",
        (root,),
    )
    return {row[0]: row[1:] for row in rows}


def save_listings(
    connection: sqlite3.Connection, root: str, new: Mapping[str, ListingRow], gone: Sequence[str]
) -> None:
    """Add or replace listings, and take those of the files in `gone` out."""
    with _writing(connection):
        source = _used(connection, root, int(time.time()))
        connection.executemany(
            "INSERT OR REPLACE INTO listings VALUES (?, ?, ?, ?, ?, ?)",
            ((source, storable(key), *row) for key, row in new.items()),
        )
        connection.executemany(
            "DELETE FROM listings WHERE source = ? AND key = ?", ((source, key) for key in gone)
        )


def load_snapshot(connection: sqlite3.Connection, root: str, key: str) -> bytes | None:
    """A snapshot of a source; None where there is none, or where it is not what was saved."""
    row = connection.execute(
        "SELECT checksum, content FROM snapshots WHERE key = ? "
        "AND source = (SELECT id FROM sources WHERE root = ?)",
        (key, root),
    ).fetchone()
    return bytes(row[1]) if row is not None and row[0] == _checksum(row[1]) else None


def save_snapshot(connection: sqlite3.Connection, root: str, key: str, content: bytes) -> None:
    """Add or replace a snapshot of a source, and take out those before the latest few."""
    with _writing(connection):
        source = _used(connection, root, int(time.time()))
        connection.execute(
            "INSERT OR REPLACE INTO snapshots (source, key, checksum, content) VALUES (?, ?, ?, ?)",
            (source, key, _checksum(content), content),
        )
        connection.execute(
            "DELETE FROM snapshots WHERE source = ? AND number NOT IN "
            "(SELECT number FROM snapshots WHERE source = ? ORDER BY number DESC LIMIT ?)",
            (source, source, _SNAPSHOTS),
        )


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def forget(connection: sqlite3.Connection, before: float) -> int:
    """Take out the sources that were last used before this time; how many there were."""
    with _writing(connection):
        return connection.execute("DELETE FROM sources WHERE used < ?", (before,)).rowcount


def storable(name: str) -> str:
    """A file's name as text that SQLite takes; one that is no text (bytes of another encoding) is never met again."""
    return name.encode("utf-8", "backslashreplace").decode()
