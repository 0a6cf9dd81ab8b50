"""Which item is trained at which size, how often per epoch; what is left out, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from velatura.data.batching.buckets import Bucket, crop_loss, enlarges
from velatura.data.batching.regularisation import balanced_repeats
from velatura.data.batching.sizes import Sizes
from velatura.data.items import Item, some
from velatura.errors import DataError
from velatura.events import Events
from velatura.plural import counted
from velatura.recipe.data.items import SourceData

MAX_USES = 100_000_000  # per epoch; an entry takes about a hundred bytes
_CROPPED = 1 / 3  # share of an image's area whose loss is remarked
SMALLER = ("image is smaller than its resolution", "images are smaller than their resolution")


@dataclass(kw_only=True, slots=True)  # never changed; not frozen, as `Item`
class Entry:
    """One use of an item per epoch: at one size; `repeat` counts from 0."""

    item: Item
    bucket: Bucket
    repeat: int = 0
    share: float = 1.0  # below 1: used in this share of the epochs only
    batch_size: int | None = None  # where it is not that of the run

    @property
    def lane(self) -> tuple[Bucket, int | None, str, tuple[str, ...]]:
        """What the entries of a batch must have in common."""
        item = self.item
        roles = tuple(sorted(item.companions)) if item.companions else ()
        return self.bucket, self.batch_size, item.treatment.group, roles


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All entries of an epoch in the scan's order, and the items that have none."""

    entries: tuple[Entry, ...]
    left_out: tuple[Item, ...] = ()
    notices: tuple[str, ...] = ()


def lay_out(
    items: Sequence[Item],
    sections: Sequence[SourceData],
    *,
    size_step: int,
    events: Events,
    batch_tokens: int | None = None,
) -> Layout:
    """Put every item in the nearest bucket of each of its source's resolutions, `repeats` times.

    `size_step`: image edges must be multiples of this (`ModelInfo.size_step`); so many pixels squared are a token.
    With `batch_tokens` each bucket has a batch size of its own, where the source does not name one. Items smaller
    than their bucket are left out where the source says `upscale = false`. Notices were also sent to `events`.
    Raises RecipeError for sizes that the family cannot have, DataError when no entry remains, or more than MAX_USES.
    """
    allowed = [Sizes(section, size_step) for section in sections]
    placed: list[tuple[Item, Bucket]] = []
    left_out: list[Item] = []

    @cache  # of 100,000 images, most share a few hundred sizes
    def sizes_of(source: int, width: int, height: int) -> list[Bucket]:
        small = min(width, height) < (sections[source].min_size or 0)
        return [] if small else allowed[source].of(width, height)

    for item in items:
        sizes = sizes_of(item.source, item.width, item.height)
        if not sizes:
            left_out.append(item)
        placed += [(item, size) for size in sizes]
    _check_uses([item for item, _ in placed])
    repeats = balanced_repeats([item for item, _ in placed], sections)
    batch_sizes = [section.batch_size for section in sections]
    entries = [
        Entry(item=item, bucket=size, repeat=repeat, share=share, batch_size=batch_sizes[item.source])
        for (item, size), count in zip(placed, repeats, strict=True)
        for repeat, share in _uses(count)
    ]
    unused = [item.name for (item, _), count in zip(placed, repeats, strict=True) if not count]
    notices = _notices(entries, left_out, unused)
    if batch_tokens is not None:
        entries = _sized(entries, batch_tokens, size_step)
        notices += tuple(_larger_than(batch_tokens, entries, size_step))
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


def _check_uses(items: Sequence[Item]) -> None:
    """A mistyped number of repeats, also one in a folder's name, must not fill the memory."""
    total = sum(item.treatment.repeats for item in items)
    if total > MAX_USES:
        most = max(items, key=lambda item: item.treatment.repeats)
        raise DataError(
            f"images would be used {total:,.0f} times in an epoch; allowed are {MAX_USES:,} times. "
            f"Lower repeats: that of {most.name} is {most.treatment.repeats:g}."
        )


def tokens_of(size: Bucket, size_step: int) -> int:
    """Image tokens of a size: squares of `size_step` pixels, as transformers see them."""
    return (size[0] // size_step) * (size[1] // size_step)


def _sized(entries: Sequence[Entry], batch_tokens: int, size_step: int) -> list[Entry]:
    """Entries with as many to a batch as make up to `batch_tokens`, where their source names no batch size."""
    return [
        entry
        if entry.batch_size is not None
        else replace(entry, batch_size=max(1, batch_tokens // tokens_of(entry.bucket, size_step)))
        for entry in entries
    ]


def _larger_than(batch_tokens: int, entries: Sequence[Entry], size_step: int) -> Iterator[str]:
    """A remark on sizes of which a single image has more tokens than a batch should."""
    found = {entry.bucket for entry in entries if entry.batch_size == 1}
    large = [f"{w}x{h}" for w, h in sorted(found) if tokens_of((w, h), size_step) > batch_tokens]
    if large:
        yield (
            f"batch_tokens = {batch_tokens} is less than one image has; images of these sizes come one by one: "
            f"{some(large)}."
        )


@cache
def _uses(repeats: float) -> tuple[tuple[int, float], ...]:
    """Number and share of each use; the fraction that is left is one more, in this share of the epochs."""
    whole = int(repeats + 5e-7)
    fraction = max(round(repeats - whole, 6), 0.0)
    uses = [(number, 1.0) for number in range(whole)]
    return (*uses, (whole, fraction)) if fraction else tuple(uses)


def _notices(entries: Sequence[Entry], left_out: Sequence[Item], unused: Sequence[str]) -> tuple[str, ...]:
    notices = []
    if unused:
        notices.append(
            f"{counted(len(unused), 'regularisation image is', 'regularisation images are')} more than needed, "
            f"and never used: {some(unused)}."
        )
    if left_out:
        notices.append(
            f"{counted(len(left_out), 'image is', 'images are')} too small and left out (upscale, or min_size): "
            f"{some([item.name for item in left_out])}."
        )
    sizes = {(entry.item.width, entry.item.height, entry.bucket) for entry in entries}
    enlarged = _names(entries, sizes, lambda width, height, size: enlarges(width * 2, height * 2, size))
    if enlarged:
        count = counted(len(enlarged), "image is", "images are")
        notices.append(f"{count} enlarged to more than twice the size: {some(enlarged)}.")
    cropped = _names(entries, sizes, lambda width, height, size: crop_loss(width, height, size) > _CROPPED)
    if cropped:
        count = counted(len(cropped), "image loses", "images lose")
        notices.append(f"{count} more than a third of the area to cropping: {some(cropped)}.")
    return tuple(notices)


def _names(
    entries: Sequence[Entry],
    sizes: Iterable[tuple[int, int, Bucket]],
    fits: Callable[[int, int, Bucket], bool],
) -> list[str]:
    """The items of those sizes of which it is true, each once."""
    asked = {size for size in sizes if fits(*size)}
    if not asked:
        return []
    return list({e.item.name: None for e in entries if (e.item.width, e.item.height, e.bucket) in asked})
