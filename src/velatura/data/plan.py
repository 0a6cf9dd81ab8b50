"""Which item is trained at which size, how often per epoch; what is left out, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from velatura.data.buckets import Bucket, assign, crop_loss, default_step, enlarges, make_buckets
from velatura.data.items import Item, some
from velatura.errors import DataError, RecipeError
from velatura.events import Events
from velatura.recipe.data.items import SourceData

_CROPPED = 1 / 3  # share of an image's area whose loss is remarked


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One use of an item per epoch: at one size; `repeat` counts from 0."""

    item: Item
    bucket: Bucket
    repeat: int = 0
    share: float = 1.0  # below 1: used in this share of the epochs only
    batch_size: int | None = None  # where the source has its own

    @property
    def lane(self) -> tuple[Bucket, int | None, str, tuple[str, ...]]:
        """What the entries of a batch must have in common."""
        roles = tuple(sorted(self.item.companions))
        return self.bucket, self.batch_size, self.item.treatment.group, roles


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All entries of an epoch in the scan's order, and the items that have none."""

    entries: tuple[Entry, ...]
    left_out: tuple[Item, ...] = ()
    notices: tuple[str, ...] = ()


def lay_out(
    items: Sequence[Item], sections: Sequence[SourceData], *, size_step: int, events: Events
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
        section = sections[item.source]
        sizes = [assign(item.width, item.height, choice) for choice in buckets[item.source]]
        if not section.upscale:
            sizes = [size for size in sizes if not enlarges(item.width, item.height, size)]
        if not sizes or min(item.width, item.height) < (section.min_size or 0):
            left_out.append(item)
        else:
            entries += [use for size in sizes for use in _uses(item, size, section.batch_size)]
    entries = _balanced(entries)
    notices = _notices(entries, left_out)
    for notice in notices:
        events.notice(notice)
    if not items:
        raise DataError("there are no images to train on. Add images to a [[data]] folder.")
    if not entries:
        raise DataError(
            f"no image is left to train on: all {len(left_out)} are smaller than their resolution and "
            "upscale = false. Lower the resolution, or set upscale = true."
        )
    return Layout(entries=tuple(entries), left_out=tuple(left_out), notices=notices)


def _uses(item: Item, size: Bucket, batch_size: int | None) -> list[Entry]:
    """`repeats` entries; the fraction that is left is one more that is used in this share of the epochs."""
    whole = int(item.treatment.repeats)
    fraction = round(item.treatment.repeats - whole, 6)
    uses = [Entry(item=item, bucket=size, repeat=i, batch_size=batch_size) for i in range(whole)]
    if fraction:
        uses.append(Entry(item=item, bucket=size, repeat=whole, share=fraction, batch_size=batch_size))
    return uses


def _balanced(entries: list[Entry]) -> list[Entry]:
    """Regularisation images together are used as often as all others together: whole rounds, then the first ones."""
    plain = [entry for entry in entries if not entry.item.treatment.regularisation]
    classes = [entry for entry in entries if entry.item.treatment.regularisation]
    if not plain or not classes:
        return entries
    wanted = max(1, round(sum(entry.share for entry in plain)))
    rounds = -(-wanted // len(classes))
    repeated = [
        replace(entry, repeat=entry.repeat + i, share=1.0) for i in range(rounds) for entry in classes
    ]
    return [*plain, *repeated[:wanted]]


def _buckets_of(section: SourceData, size_step: int) -> list[list[Bucket]]:
    """One list of buckets per resolution of the source."""
    resolutions = [section.resolution] if isinstance(section.resolution, int) else section.resolution
    step = section.bucket_step
    if step is not None and step % size_step:
        raise RecipeError(
            f"[[data]] bucket_step = {step}, but this model's image edges are "
            f"multiples of {size_step}; use such a multiple."
        )
    choices = []
    for resolution in dict.fromkeys(resolutions):
        chosen = step or default_step(resolution, size_step)
        square_only = make_buckets(resolution, size_step, min_edge=resolution)
        ranged = make_buckets(resolution, chosen, section.bucket_min, section.bucket_max)
        choices.append(ranged if section.buckets else square_only)
    return choices


def _notices(entries: Sequence[Entry], left_out: Sequence[Item]) -> tuple[str, ...]:
    notices = []
    if left_out:
        notices.append(
            f"{len(left_out)} images are too small and were left out (upscale = false, or min_size): "
            f"{some([item.name for item in left_out])}."
        )
    enlarged = {e.item.name: None for e in entries if enlarges(e.item.width * 2, e.item.height * 2, e.bucket)}
    if enlarged:
        notices.append(
            f"{len(enlarged)} images are enlarged to more than twice their size: {some(list(enlarged))}."
        )
    cropped = {
        e.item.name: None for e in entries if crop_loss(e.item.width, e.item.height, e.bucket) > _CROPPED
    }
    if cropped:
        notices.append(
            f"{len(cropped)} images lose more than a third of their area to cropping: {some(list(cropped))}."
        )
    return tuple(notices)
