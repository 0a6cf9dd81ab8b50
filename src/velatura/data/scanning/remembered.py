"""What earlier scans found, so that a second start does not read every file again.

A file is taken to be unchanged when its size, its modification time and its change time are.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType

from velatura.checkpoints.stamps import Stamp, is_settled
from velatura.data.scanning.index import Index
from velatura.data.scanning.index_tables import Rows
from velatura.data.scanning.probe import Probe
from velatura.data.text.captions import Caption


class Remembered:
    """Probes and captions of one source's files, by the keys of their places; kept in the index.

    Without an index nothing is remembered. Lookups may come from several threads. Use it in
    `with`: what was found is written at its end.
    """

    def __init__(self, index: Index | None, root: Path) -> None:
        self._index = index
        self._root = os.path.realpath(root)
        self._began = time.time_ns()
        self._old = Rows() if self._index is None else self._index.load(self._root)
        self._new = Rows()
        self._met: set[str] = set()

    def __enter__(self) -> Remembered:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is new, also after Ctrl-C; forget files that are gone once they outnumber the others."""
        self._save(complete=kind is None)

    def has_image(self, key: str) -> bool:
        """Whether an earlier scan met an image there."""
        return key in self._old.images

    def probe(self, key: str, stamp: Stamp, *, thorough: bool) -> Probe | None:
        """What is known of an image; None when it must be looked at (again, or more thoroughly)."""
        found = self._old.images.get(key)
        if found is None or found[:3] != stamp or (thorough and not found[3]):
            return None
        self._met.add(key)
        _, _, _, _, width, height, content, frames = found
        return Probe(width=width, height=height, content=content, frames=frames)

    def caption(self, key: str, stamp: Stamp) -> Caption | None:
        """What a caption file says; None when it must be read."""
        found = self._old.captions.get(key)
        if found is None or found[:3] != stamp:
            return None
        self._met.add(key)
        return Caption(text=found[3], origin=found[4])

    def stamp(self, key: str) -> Stamp | None:
        """The stamp of a file that this scan met, as it was looked at; None where that is not remembered."""
        if key not in self._met:
            return None
        new, old = self._new, self._old
        found = new.images.get(key) or new.captions.get(key) or old.images.get(key) or old.captions.get(key)
        return None if found is None else found[:3]

    def keep(self, key: str, stamp: Stamp, found: Probe | Caption, *, thorough: bool = False) -> None:
        """Remember a file, unless it changed so lately that it may change again unseen."""
        if not is_settled(stamp, self._began):
            return
        self._met.add(key)
        if isinstance(found, Probe):
            self._new.images[key] = (
                *stamp, int(thorough), found.width, found.height, found.content, found.frames,
            )  # fmt: skip
        else:
            self._new.captions[key] = (*stamp, found.text, found.origin)

    def _save(self, *, complete: bool) -> None:
        if self._index is None:
            return
        known = (*self._old.images, *self._old.captions)
        gone = [key for key in known if key not in self._met] if complete else []
        self._index.save(self._root, self._new, gone if len(gone) > len(self._met) else [])
