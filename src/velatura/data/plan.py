"""Which item is trained at which size, how often per epoch; what is left out, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from velatura.data.buckets import Bucket, assign, crop_loss, default_step, enlarges, make_buckets
from velatura.data.items import Item, some
from velatura.errors import DataError, RecipeError
from velatura.events import Events
from velatura.recipe.data.folder import FolderData
from velatura.wording import counted

_CROPPED = 1 / 3  # share of an image's area whose loss is remarked
SMALLER = ("image is smaller than its resolution", "images are smaller than their resolution")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One use of an item per epoch: at one size; `repeat` counts from 0."""

    item: Item
    bucket: Bucket
    repeat: int = 0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All entries of an epoch in the scan's order, and the items that have none."""

    entries: tuple[Entry, ...]
    left_out: tuple[Item, ...] = ()
    notices: tuple[str, ...] = ()


def lay_out(
    items: Sequence[Item], sections: Sequence[FolderData], *, size_step: int, events: Events
) -> Layout:
    """Put every item in the nearest bucket of each of its source's resolutions, `repeats` times.

    `size_step`: image edges must be multiples of this (`ModelInfo.size_step`). Items smaller than their
    bucket are left out where the source says `upscale = false`. Notices were also sent to `events`. Raises
    RecipeError for sizes that the family cannot have, DataError when no entry remains.
    """
    buckets = [_buckets_of(section, size_step) for section in sections]
    entries: list[Entry] = []
    left_out: list[Item] = []
    for item in items:
        sizes = [assign(item.width, item.height, choice) for choice in buckets[item.source]]
        if not sections[item.source].upscale:
            sizes = [size for size in sizes if not enlarges(item.width, item.height, size)]
        if not sizes:
            left_out.append(item)
        entries += [Entry(item=item, bucket=size, repeat=i) for size in sizes for i in range(item.repeats)]
    notices = _notices(entries, left_out)
    for notice in notices:
        events.notice(notice)
    if not items:
        raise DataError("there are no images to train on. Add images to a [[data]] folder.")
    if not entries:
        raise DataError(
            f"no image is left to train on: {counted(len(left_out), *SMALLER)} and "
            "upscale = false. Lower the resolution, or set upscale = true."
        )
    return Layout(entries=tuple(entries), left_out=tuple(left_out), notices=notices)


def _buckets_of(section: FolderData, size_step: int) -> list[list[Bucket]]:
    """One list of buckets per resolution of the source."""
    resolutions = [section.resolution] if isinstance(section.resolution, int) else section.resolution
    step = section.bucket_step
    if step is not None and step % size_step:
        raise RecipeError(
            f"data folder '{section.folder}': bucket_step = {step}, but this model's image edges are "
            f"multiples of {size_step}; use such a multiple."
        )
    choices = []
    for resolution in dict.fromkeys(resolutions):
        chosen = step or default_step(resolution, size_step)
        square_only = make_buckets(resolution, size_step, min_edge=resolution)
        choices.append(make_buckets(resolution, chosen) if section.buckets else square_only)
    return choices


def _notices(entries: Sequence[Entry], left_out: Sequence[Item]) -> tuple[str, ...]:
    notices = []
    if left_out:
        notices.append(
            f"{counted(len(left_out), *SMALLER)} and left out (upscale = false): "
            f"{some([item.name for item in left_out])}."
        )
    enlarged = {e.item.name: None for e in entries if enlarges(e.item.width * 2, e.item.height * 2, e.bucket)}
    if enlarged:
        count = counted(len(enlarged), "image is", "images are")
        notices.append(f"{count} enlarged to more than twice the size: {some(list(enlarged))}.")
    cropped = {
        e.item.name: None for e in entries if crop_loss(e.item.width, e.item.height, e.bucket) > _CROPPED
    }
    if cropped:
        count = counted(len(cropped), "image loses", "images lose")
        notices.append(f"{count} more than a third of the area to cropping: {some(list(cropped))}.")
    return tuple(notices)
