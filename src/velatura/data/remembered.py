"""What earlier scans found, so that a second start does not read every file again.

A file is taken to be unchanged when its size, its modification time and its change time are; times of the last two
seconds before the earlier look are not trusted, for a file may change twice within one tick of its clock.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any, BinaryIO

from velatura.checkpoints.writing import write_atomically
from velatura.data.cache_place import digest
from velatura.data.captions import Caption
from velatura.data.places import Stamp
from velatura.data.probe import Probe

_FORMAT = 2  # of the file, and of what `probe` and `read_caption` make of a file's bytes
_TRUSTED_AFTER = 2_000_000_000  # ns


class Remembered:
    """Probes and captions of one source's files, by the keys of their places; kept as JSON under `memory`.

    Without `memory` nothing is remembered. A file that cannot be read or understood counts as empty.
    """

    def __init__(self, memory: Path | None, root: Path) -> None:
        self._file = None if memory is None else memory / "scans" / f"{digest(str(root.resolve()))}.json"
        self._began = time.time_ns()
        self._old = _load(self._file)
        self._new: dict[str, list[Any]] = {}

    def probe(self, key: str, stamp: Stamp, *, thorough: bool) -> Probe | None:
        """What is known of an image; None when it must be looked at (again, or more thoroughly)."""
        found = self._old.get(key)
        if found is None or tuple(found[:3]) != stamp or (thorough and not found[3]):
            return None
        self._new[key] = found
        width, height, content, frames = found[4:]
        return Probe(width=width, height=height, content=content, frames=frames)

    def caption(self, key: str, stamp: Stamp) -> Caption | None:
        """What a caption file says; None when it must be read."""
        found = self._old.get(key)
        if found is None or tuple(found[:3]) != stamp:
            return None
        self._new[key] = found
        return Caption(text=found[3], origin=found[4])

    def keep(self, key: str, stamp: Stamp, found: Probe | Caption, *, thorough: bool = False) -> None:
        """Remember a file, unless it changed so lately that it may change again unseen."""
        if max(stamp[1:]) < self._began - _TRUSTED_AFTER:
            details = [thorough, *astuple(found)] if isinstance(found, Probe) else [found.text, found.origin]
            self._new[key] = [*stamp, *details]

    def save(self) -> None:
        """Write what this scan met, in place of what the earlier one did. Raises StorageError."""
        if self._file is None or self._new == self._old:
            return
        data = json.dumps({"format": _FORMAT, "files": self._new}, separators=(",", ":")).encode()

        def write(file: BinaryIO) -> None:
            file.write(data)

        write_atomically(self._file, write, size=len(data))


def _load(file: Path | None) -> dict[str, list[Any]]:
    if file is not None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            document = json.loads(file.read_bytes())
            files = document["files"]
            if document["format"] == _FORMAT and all(len(entry) in (5, 8) for entry in files.values()):
                return dict(files)
    return {}
