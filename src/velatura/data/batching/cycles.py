"""Cycles of accumulation: which micro-batches make a step together, so that groups are not torn apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def in_cycles(
    groups: Iterable[Sequence[int]], free: Sequence[int], *, size: int, first: int = 0
) -> list[list[int]]:
    """Share out micro-batches in cycles of `size`, those of a group in as few cycles as possible.

    `groups` are the micro-batches of each group, `free` those that belong to none. `first` is the length of the
    first cycle where that one is shorter: the rest of a step that an earlier epoch began (0: there is none). The last
    cycle holds what remains. What is longest goes first; a cycle takes the longest that fits in whole, then free
    ones, and only then is a group torn. Every micro-batch is in one cycle.
    """
    shelf = _Shelf(groups, free, size)
    total = shelf.count
    first = min(first, total)
    whole, last = divmod(total - first, size)
    middle = [shelf.take(size) for _ in range(whole)]
    longer, shorter = shelf.take(max(first, last)), shelf.take(min(first, last))
    head, tail = (longer, shorter) if first >= last else (shorter, longer)
    return [cycle for cycle in (head, *middle, tail) if cycle]


class _Shelf:
    """What is not in a cycle yet: pieces of groups, none longer than a cycle, and free micro-batches."""

    def __init__(self, groups: Iterable[Sequence[int]], free: Sequence[int], size: int) -> None:
        self._pieces: list[list[Sequence[int]]] = [[] for _ in range(size + 1)]  # by length
        self._free = list(free)
        self.count = len(self._free)
        for group in groups:
            self.count += len(group)
            for start in range(0, len(group), size):
                self._put(group[start : start + size])

    def take(self, length: int) -> list[int]:
        """The micro-batches of one cycle."""
        cycle: list[int] = []
        while len(cycle) < length:
            room = length - len(cycle)
            piece = self._longest(room)
            if piece is None and self._free:
                piece = [self._free.pop()]
            if piece is None:
                torn = self._longest(len(self._pieces) - 1) or ()
                piece = torn[:room]
                self._put(torn[room:])
            cycle += piece
        return cycle

    def _put(self, piece: Sequence[int]) -> None:
        self._pieces[len(piece)].append(piece)

    def _longest(self, room: int) -> Sequence[int] | None:
        """Take the longest piece that fits into the room; None where there is none."""
        length = next((length for length in range(room, 0, -1) if self._pieces[length]), None)
        return None if length is None else self._pieces[length].pop()
