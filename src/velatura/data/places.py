"""Where the bytes of an image lie: a file, a part of one, or a cell of a Parquet table."""

from __future__ import annotations

import json
import os
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass

from velatura.checkpoints.stamps import Stamp, stamp_of
from velatura.data.cells import read_cell


class Place(ABC):
    """Bytes that can be read again at any time, from any thread."""

    __slots__ = ()

    @property
    @abstractmethod
    def key(self) -> str:
        """Tells this place from all others on the machine."""

    @abstractmethod
    def stamp(self) -> Stamp:
        """Changes when the bytes may have changed. Raises OSError, FileNotFoundError when there is nothing."""

    @abstractmethod
    def read(self) -> bytes:
        """All bytes. Raises OSError."""


@dataclass(
    unsafe_hash=True, slots=True
)  # never changed; not frozen: a start makes a hundred thousand of them
class FilePlace(Place):
    """A file of its own. `path` is a text, for a Path for each of 100,000 files takes a second."""

    path: str

    @property
    def key(self) -> str:
        """The path."""
        return self.path

    def stamp(self) -> Stamp:
        """Of the file. Raises OSError, also for what is no regular file: a pipe would wait for ever."""
        status = os.stat(self.path)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        return stamp_of(status)

    def read(self) -> bytes:
        """The file's bytes."""
        with open(self.path, "rb") as file:
            return file.read()


@dataclass(frozen=True, slots=True)
class PartPlace(Place):
    """A run of bytes inside a file: a member of a tar shard, a cell of an Arrow table."""

    file: str
    name: str  # what the file calls it
    offset: int  # bytes
    size: int

    @property
    def key(self) -> str:
        """File, name and offset."""
        return f"{self.file}!{self.name}@{self.offset}"

    def stamp(self) -> Stamp:
        """The file's times, the part's size."""
        _, modified, changed = stamp_of(os.stat(self.file))  # noqa: PTH116
        return self.size, modified, changed

    def read(self) -> bytes:
        """The part's bytes. Raises OSError, also when the file is shorter than it was."""
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(f"{os.path.basename(self.file)} ends inside {self.name}")  # noqa: PTH119
        return data


@dataclass(frozen=True, slots=True)
class JsonTextPlace(Place):
    """A text inside a JSON object: the first of `keys` that it has; no text where it has none of several."""

    place: Place
    keys: tuple[str, ...]

    @property
    def key(self) -> str:
        """The object's place and the keys."""
        return f"{self.place.key}#{'|'.join(self.keys)}"

    def stamp(self) -> Stamp:
        """The object's."""
        return self.place.stamp()

    def read(self) -> bytes:
        """The text as UTF-8; a list of texts as its lines. Raises OSError, ValueError where there is none to be had."""
        try:
            document = json.loads(self.place.read())
        except (ValueError, RecursionError):
            raise ValueError("is not JSON") from None
        if not isinstance(document, dict):
            raise ValueError("is no JSON object")
        found = next((document[key] for key in self.keys if key in document), None)
        if found is None and len(self.keys) == 1:
            raise ValueError(f"has no key '{self.keys[0]}'; its keys are {', '.join(document) or 'none'}")
        lines = found if isinstance(found, list) else [found or ""]
        if not all(isinstance(line, str) for line in lines):
            raise ValueError(f"holds no text, but {str(found)[:80]}")
        return "\n".join(lines).encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class CellPlace(Place):
    """A cell of a Parquet table that holds a file's bytes; to read it is to read its row group, if not read lately."""

    table: str
    column: str  # of bytes; "image.bytes" inside a struct
    group: int
    row: int  # in its row group

    @property
    def key(self) -> str:
        """Table, column and row."""
        return f"{self.table}!{self.column}@{self.group}.{self.row}"

    def stamp(self) -> Stamp:
        """The table's times; the size of a cell is not known before it is read, and counts as none."""
        _, modified, changed = stamp_of(os.stat(self.table))  # noqa: PTH116
        return 0, modified, changed

    def read(self) -> bytes:
        """The cell's bytes. Raises OSError when it is empty, or the table is no longer what it was."""
        modified = os.stat(self.table).st_mtime_ns  # noqa: PTH116
        return read_cell(self.table, modified, self.column, self.group, self.row)
