"""What readers found inside large files, such as the members of a tar shard: each is gone through once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from velatura.checkpoints.stamps import is_settled, stamp_of
from velatura.data.scanning.index import Index
from velatura.data.scanning.index_tables import ListingRow

Open = Callable[[Path], "Listings"]  # the listings of a source, which goes by its folder or file


class Listings:
    """The listings of one source's files; kept in the index, and nowhere without one.

    A file is taken to be unchanged when its size and its times are. Use it in `with`: what is new is written at its
    end.
    """

    def __init__(self, index: Index | None, root: Path) -> None:
        self._index = index
        self._root = os.path.realpath(root)
        self._old = {} if index is None else index.listings(self._root)
        self._new: dict[str, ListingRow] = {}
        self._met: set[str] = set()

    def __enter__(self) -> Listings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is new; forget files that were not asked for, unless the reader was stopped before its end."""
        if self._index is not None:
            gone = [] if kind else [path for path in self._old if path not in self._met]
            self._index.save_listings(self._root, self._new, gone)

    def of(self, path: str, read: Callable[[str], Any]) -> Any:
        """What is known of a file, or what `read` makes of it now: values that JSON has.

        Raises OSError, and what `read` does.
        """
        began = time.time_ns()
        stamp = stamp_of(os.stat(path))  # noqa: PTH116
        self._met.add(path)
        known = self._old.get(path)
        if known is not None and known[:3] == stamp:
            with suppress(ValueError):  # damage that SQLite does not see
                return json.loads(known[3])
        listing = read(path)
        if is_settled(stamp, began):
            self._new[path] = (*stamp, json.dumps(listing))
        return listing
