"""Views: which side and which part of an image a use shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from velatura.data.batching.buckets import Bucket
from velatura.data.batching.everydream2_compat import everydream2_cut
from velatura.data.batching.plan import Entry
from velatura.data.images import Look
from velatura.data.items import Item
from velatura.draws import Draw


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """An item as the autoencoder sees it: at one size, on one side, cut at one of its places."""

    item: Item
    bucket: Bucket
    flip: bool = False
    crop: int = 0  # 0 is the centre; every other number is a random place of its own

    @property
    def look(self) -> Look:
        """How the image is cut; a crop's place depends on the image and the crop's number alone."""
        look = Look(bucket=self.bucket, flip=self.flip, resize=self.item.treatment.resize)
        if not self.crop:
            return look
        draw = Draw.of(int(self.item.content[:15], 16), step=self.crop)
        if self.item.treatment.cut_as_everydream2:
            chances = draw.uniform("everydream2 cut", (6,))[0].tolist()
            inset, place = everydream2_cut((self.item.width, self.item.height), self.bucket, chances)
            return replace(look, inset=inset, at=place)
        x, y = draw.uniform("crop", (2,))[0].tolist()
        return replace(look, at=(x, y))

    @property
    def key(self) -> tuple[object, ...]:
        """All that the pixels depend on. Defaults leave no trace, so that caches outlive new options."""
        treatment = self.item.treatment
        special: list[object] = [treatment.resize] if treatment.resize != "auto" else []
        special += [self.crop] if self.crop else []
        special += ["everydream2"] if self.crop and treatment.cut_as_everydream2 else []
        return (self.item.content, self.bucket, self.flip, treatment.background, *special)


def views_of(entries: Iterable[Entry]) -> list[View]:
    """Every view that training with cached latents may ask for, once, grouped by bucket."""
    found: dict[tuple[object, ...], View] = {}
    for entry in entries:
        treatment = entry.item.treatment
        sides = (False,) if treatment.flip <= 0 else (True,) if treatment.flip >= 1 else (False, True)
        crops = range(1, treatment.crops + 1) if treatment.random_crop else (0,)
        for flip in sides:
            for crop in crops:
                view = View(item=entry.item, bucket=entry.bucket, flip=flip, crop=crop)
                found.setdefault(view.key, view)
    return sorted(found.values(), key=lambda view: view.bucket)


def drawn_views(entries: Sequence[Entry], draw: Draw, *, cached: bool) -> list[View]:
    """The views that the slots of a step show; with `cached`, one of those that `views_of` lists."""
    flips = [False] * len(entries)
    if any(entry.item.treatment.flip for entry in entries):
        chances = draw.uniform("flip").tolist()
        flips = [chance < entry.item.treatment.flip for chance, entry in zip(chances, entries, strict=True)]
    crops = [0] * len(entries)
    if any(entry.item.treatment.random_crop for entry in entries):
        places = draw.integers("crop", 2**31)
        crops = [_crop(entry.item, place, cached) for place, entry in zip(places, entries, strict=True)]
    return [
        View(item=entry.item, bucket=entry.bucket, flip=flip, crop=crop)
        for entry, flip, crop in zip(entries, flips, crops, strict=True)
    ]


def _crop(item: Item, place: int, cached: bool) -> int:
    if not item.treatment.random_crop:
        return 0
    return 1 + (place % item.treatment.crops if cached else place)
