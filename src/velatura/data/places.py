"""Where the bytes of an image lie: a file, or a cell of a Parquet table."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass

from velatura.data.cells import read_cell

Stamp = tuple[int, int, int]  # size in bytes, modification and change time in ns


def stamp_of(status: os.stat_result) -> Stamp:
    """What tells whether a file was touched."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Place(ABC):
    """Bytes that can be read again at any time, from any thread."""

    __slots__ = ()

    @property
    @abstractmethod
    def key(self) -> str:
        """Tells this place from all others on the machine."""

    @property
    @abstractmethod
    def suffix(self) -> str:
        """The extension of what lies here, lower case with its dot."""

    @abstractmethod
    def stamp(self) -> Stamp:
        """Changes when the bytes may have changed. Raises OSError, FileNotFoundError when there is nothing."""

    @abstractmethod
    def read(self) -> bytes:
        """All bytes. Raises OSError."""


@dataclass(frozen=True, slots=True)
class FilePlace(Place):
    """A file of its own. `path` is a text, for a Path for each of 100,000 files takes a second."""

    path: str

    @property
    def key(self) -> str:
        """The path."""
        return self.path

    @property
    def suffix(self) -> str:
        """The file's extension."""
        return os.path.splitext(self.path)[1].lower()  # noqa: PTH122

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
class CellPlace(Place):
    """A cell of a Parquet table that holds a file's bytes; to read it is to read its row group, if not read lately."""

    table: str
    column: str  # of bytes; "image.bytes" inside a struct
    group: int
    row: int  # in its row group
    name: str = ""  # what the table calls the file

    @property
    def key(self) -> str:
        """Table, column and row."""
        return f"{self.table}!{self.column}@{self.group}.{self.row}"

    @property
    def suffix(self) -> str:
        """The extension of the name."""
        return os.path.splitext(self.name)[1].lower()  # noqa: PTH122

    def stamp(self) -> Stamp:
        """The table's times; the size of a cell is not known before it is read, and counts as none."""
        _, modified, changed = stamp_of(os.stat(self.table))  # noqa: PTH116
        return 0, modified, changed

    def read(self) -> bytes:
        """The cell's bytes. Raises OSError when it is empty, or the table is no longer what it was."""
        modified = os.stat(self.table).st_mtime_ns  # noqa: PTH116
        return read_cell(self.table, modified, self.column, self.group, self.row)
