"""Counts with their nouns, for messages: `1 image`, `12 images`."""

from __future__ import annotations


def counted(count: float, one: str, many: str = "") -> str:
    """A count and what is counted; `many` where more words change than one that takes an s.

    >>> counted(1, "image is", "images are"), counted(1200, "step")
    ('1 image is', '1,200 steps')
    """
    number = f"{count:,}" if isinstance(count, int) else f"{count:,g}"
    return f"{number} {agreeing(count, one, many)}"


def agreeing(count: float, one: str, many: str = "") -> str:
    """The form of a word that goes with a count: `agreeing(1, "it", "them")` is `it`."""
    return one if count == 1 else many or f"{one}s"
