"""What is kept in memory between epochs, up to a limit of bytes."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

MEMORY = 2 * 2**30  # bytes: the usual limit of each cache
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """A dictionary that takes things while there is room; what it took first stays. Shared between threads.

    An epoch visits everything once in random order, so evicting old things for new ones would gain nothing.
    """

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._things: dict[K, V] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._things)

    def get(self, key: K) -> V | None:
        """The thing, if it is kept."""
        return self._things.get(key)

    def takes(self, size: int) -> bool:
        """Whether there is room for something of `size` bytes."""
        return size <= self._room

    def offer(self, key: K, thing: V, size: int) -> bool:
        """Keep `thing` of `size` bytes if there is room; True when it is kept now."""
        with self._lock:
            if key not in self._things:
                if size > self._room:
                    return False
                self._things[key] = thing
                self._room -= size
            return True
