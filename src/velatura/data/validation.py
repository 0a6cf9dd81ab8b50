"""Held-out images: the same content is never on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from velatura.data.items import Item
from velatura.errors import DataError


def split(items: Sequence[Item], share: float, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Split items into (training, held out), about `share` of the different images held out.

    Items with identical bytes go to the same side. Who goes depends on the content and the seed alone,
    neither on names nor on order. At least one image is on each side when 0 < share. Held-out items are used
    once and never flipped. Raises DataError when there is but one image to share out.
    """
    if share <= 0:
        return tuple(items), ()
    contents = sorted({item.content for item in items}, key=lambda content: _rank(content, seed))
    if len(contents) < 2:
        raise DataError(
            f"validation.share = {share} needs at least 2 different images, found {len(contents)}. "
            "Add images, or set share = 0."
        )
    count = min(max(round(share * len(contents)), 1), len(contents) - 1)
    held_out = set(contents[:count])
    training = tuple(item for item in items if item.content not in held_out)
    return training, still([item for item in items if item.content in held_out])


def still(items: Sequence[Item]) -> tuple[Item, ...]:
    """Items for validation: used once, never flipped, of equal weight."""
    return tuple(
        replace(
            item,
            treatment=replace(item.treatment, repeats=1, flip=0.0, random_crop=False, weight=1.0, colour=0.0),
        )
        for item in items
    )


def _rank(content: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/validation/{content}".encode(), digest_size=16).digest()
