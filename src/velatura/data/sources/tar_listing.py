"""The members of a tar shard: where each one's bytes lie. Told by the headers; nothing is ever unpacked."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from velatura.errors import DataError

_BLOCK = tarfile.BLOCKSIZE
_LARGEST = 2**50  # bytes of a member
_LONGEST_HEADER = 2**20  # bytes of a long name or of extended fields
_NOT_FILES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class _Header(tarfile.TarInfo):
    """A header whose size can be right: others make `tarfile` read in circles, or gigabytes into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Raises tarfile.HeaderError."""
        header = super().frombuf(buf, encoding, errors)
        limit = _LONGEST_HEADER if header.type in _NOT_FILES else _LARGEST
        if not 0 <= header.size <= limit:
            raise tarfile.InvalidHeaderError(f"a size of {header.size:,} bytes")  # type: ignore[attr-defined]
        return header


@dataclass(kw_only=True)
class TarListing:
    """What is in a shard, in its order."""

    members: list[tuple[str, int, int]] = field(default_factory=list)  # name, offset and size in bytes
    refused: list[str] = field(
        default_factory=list
    )  # no plain files, or with names that lead out of the shard
    damage: dict[str, str] = field(default_factory=dict)  # the shard's own name or a member's -> what is lost


def list_tar(path: str) -> TarListing:
    """Go through a shard's headers.

    Of a shard that was cut off or is damaged, what is whole is listed. Raises DataError for a compressed one, whose
    members cannot be read singly, and OSError.
    """
    _refuse_compressed(path)
    found = TarListing()
    size = Path(path).stat().st_size
    why = ""
    try:
        with tarfile.open(path, "r:", tarinfo=_Header) as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else all of them are kept
                if member.size < 0:  # extended fields can say so
                    raise tarfile.ReadError(f"a size of {member.size:,} bytes")
                _sort_in(member, size, found)
            end = tar.offset
    except (tarfile.TarError, ValueError, RecursionError) as error:  # all that damaged headers lead to
        why = (
            f"is cut off or damaged ({error})" if found.members else f"cannot be read as a tar file ({error})"
        )
    else:
        if not _ends_at(path, end):
            why = f"has no end mark after {end:,} bytes: it is cut off or damaged"
    if why and not found.damage:
        found.damage[""] = why
    return found


def _sort_in(member: tarfile.TarInfo, size: int, found: TarListing) -> None:
    if member.isdir():
        return
    name = os.path.normpath(member.name).replace("\\", "/")
    if not member.isreg() or member.issparse() or _leads_out(member.name):
        found.refused.append(member.name)
    elif member.offset_data + member.size > size:
        found.damage[name] = "the shard ends inside it, and all that came after it is lost"
    else:
        found.members.append((name, member.offset_data, member.size))


def _leads_out(name: str) -> bool:
    return name.startswith(("/", "\\")) or name[1:2] == ":" or ".." in name.replace("\\", "/").split("/")


def _refuse_compressed(path: str) -> None:
    with open(path, "rb") as file:
        begin = file.read(6)
    kind = next((kind for mark, kind in _COMPRESSED.items() if begin.startswith(mark)), None)
    if kind is not None:
        raise DataError(
            f"shard '{path}' is compressed with {kind}; members are read singly, which needs a plain .tar. "
            f"Unpack it once, for example: {'gunzip' if kind == 'gzip' else 'unxz' if kind == 'xz' else kind + ' -d'} "
            f"{Path(path).name}"
        )


def _ends_at(path: str, offset: int) -> bool:
    """Whether a block of zeros, the end mark, lies there."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(_BLOCK) == bytes(_BLOCK)
