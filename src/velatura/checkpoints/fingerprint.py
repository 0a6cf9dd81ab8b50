"""The identity of files that decide about a result: for cache keys, resumed runs, and pictures that are repeated.

It is the SHA-256 of all bytes, the hash that hubs show for their files, together with the configs that go with them:
two models that differ anywhere never share a cache entry. Names, folders and times do not count, so a copy has the
same fingerprint.

Reading 10 GB takes about 7 s of one core (1.5 GB/s with the SHA instructions of CPUs since about 2018, a third of
that without), and would be waste at every start. So the hash of a file of more than `SMALL` bytes is remembered, in
this process and under `fingerprints` in the user's cache folder, by its path, size, inode, and times of modification
and change. A file that changed just now (`stamps`) is read each time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from velatura.checkpoints.cache_folder import default_cache_folder
from velatura.checkpoints.hashes import file_sha256
from velatura.checkpoints.stamps import Stamp, is_settled, stamp_of
from velatura.checkpoints.writing import write_bytes
from velatura.errors import CheckpointError, StorageError

SMALL = 16 * 1024 * 1024  # bytes that are read in less time than a memory is looked up
_NOTES = ("architectures", "dtype", "torch_dtype", "transformers_version")  # in configs, of no effect

_here: dict[tuple[str, Stamp, int], str] = {}  # by path, stamp and inode


def fingerprint(paths: Path | str | Sequence[Path | str], configs: Sequence[Mapping[str, Any]] = ()) -> str:
    """64 hex digits for one file, that file's SHA-256; or for several in any order, with their configs in order.

    Keys of configs that begin with `_`, and others that only tell where they come from, do not count. Raises
    CheckpointError.
    """
    several = [paths] if isinstance(paths, Path | str) else list(paths)
    digests = sorted(remembered_sha256(Path(path)) for path in several)
    if len(digests) == 1 and not configs:
        return digests[0]
    facts = [{key: value for key, value in config.items() if not _is_note(key)} for config in configs]
    document = json.dumps([digests, facts], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(document.encode()).hexdigest()


def _is_note(key: str) -> bool:
    return key.startswith("_") or key in _NOTES


def remembered_sha256(path: Path) -> str:
    """SHA-256 of a whole file, read only if it changed since it was last asked for. Raises CheckpointError."""
    path = path.absolute()
    began = time.time_ns()
    stamp, inode = _status(path)
    if stamp[0] <= SMALL:
        return file_sha256(path)
    if (known := _here.get((str(path), stamp, inode)) or _recall(path, stamp, inode)) is not None:
        return known
    found = file_sha256(path)
    if is_settled(stamp, began) and _status(path) == (stamp, inode):
        _here[str(path), stamp, inode] = found
        _keep(path, stamp, inode, found)
    return found


def _status(path: Path) -> tuple[Stamp, int]:
    """The stamp and the inode, which tells of a file put in place of another where there is no time of change."""
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror}; give the path of a file."
        ) from error
    return stamp_of(status), status.st_ino


def _note_of(path: Path) -> Path:
    name = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()
    return default_cache_folder() / "fingerprints" / f"{name[:32]}.json"


def _recall(path: Path, stamp: Stamp, inode: int) -> str | None:
    """What an earlier process kept, if the file is still the same; nothing where that cannot be read."""
    with suppress(OSError, ValueError):
        kept = json.loads(_note_of(path).read_text("utf-8"))
        if (
            isinstance(kept, dict)
            and kept.get("stamp") == [*stamp, inode]
            and isinstance(kept.get("sha256"), str)
        ):
            return str(kept["sha256"])
    return None


def _keep(path: Path, stamp: Stamp, inode: int, found: str) -> None:
    """Written for the next process; where the cache folder cannot be written, that one reads the file again."""
    document = json.dumps({"path": str(path), "stamp": [*stamp, inode], "sha256": found}).encode("ascii")
    with suppress(StorageError):
        write_bytes(_note_of(path), document)
