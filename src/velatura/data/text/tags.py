"""A caption as tags: which may move and which may not, their order, and how many fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Weighted = tuple[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tags:
    """The tags of one caption; those in the middle may be shuffled, dropped and cut off."""

    head: tuple[str, ...] = ()
    moving: tuple[Weighted, ...] = ()
    tail: tuple[str, ...] = ()

    def joined(self, separator: str, limit: int | None = None) -> str:
        """One text, at most `limit` characters long if leaving out the last of the moving tags can make it so."""
        between = f"{separator.strip()} "
        moving = [tag for tag, _ in self.moving]
        if limit is not None:
            fixed = [*self.head, *self.tail]
            moving = moving[: _fitting(moving, limit - _length(fixed, between), between, first=not fixed)]
        return between.join([*self.head, *moving, *self.tail])


def split_text(text: str, separator: str) -> list[str]:
    """The tags of a text, in order; empty ones are left out."""
    return [tag for tag in (tag.strip() for tag in text.split(separator)) if tag]


def split_tags(text: str, *, separator: str, keep: int, mark: str | None) -> Tags:
    """The tags of a text. Before a `mark` they are fixed, and after a second one; else the first `keep` are."""
    if mark and mark in text:
        first, rest = text.split(mark, 1)
        middle, _, last = rest.partition(mark)
        parts = first, middle, last.replace(mark, separator)
        head, moving, tail = (split_text(part, separator) for part in parts)
    else:
        tags = split_text(text, separator)
        head, moving, tail = tags[:keep], tags[keep:], []
    return Tags(head=tuple(head), moving=tuple((tag, 1.0) for tag in moving), tail=tuple(tail))


def shuffled(tags: Sequence[Weighted], chance: np.random.Generator) -> list[Weighted]:
    """Tags drawn one by one without putting back, each in proportion to its weight: heavy ones tend to come early."""
    # the order of exponential waiting times is that of such draws (Efraimidis and Spirakis, 2006)
    waits = chance.exponential(size=len(tags)) / np.maximum([weight for _, weight in tags], 1e-9)
    return [tags[i] for i in np.argsort(waits, kind="stable")]


def _length(tags: Sequence[str], between: str) -> int:
    return sum(map(len, tags)) + len(between) * max(len(tags) - 1, 0)


def _fitting(tags: Sequence[str], room: int, between: str, *, first: bool) -> int:
    """How many of the tags fit into so many characters; `first`: nothing stands before or after them."""
    for count, tag in enumerate(tags):
        room -= len(tag) + (0 if first and count == 0 else len(between))
        if room < 0:
            return count
    return len(tags)
