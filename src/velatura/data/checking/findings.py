"""What is worth a second look before training, each with the sentence that a user reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from velatura.data.batching.buckets import crop_loss
from velatura.data.batching.plan import Entry
from velatura.data.checking.examine import BLURRY, Examined
from velatura.data.checking.likeness import alike
from velatura.data.checking.wordings import Worded
from velatura.data.items import Item
from velatura.plural import counted

Kind = Literal[
    "damaged", "too small", "enlarged", "blurry", "cropped", "duplicate", "near duplicate", "no caption",
    "caption cut",
]  # fmt: skip
MEANING: Mapping[Kind, str] = {
    "damaged": "cannot be decoded: training would stop at them",
    "too small": "left out: smaller than upscale = false or min_size allow",
    "enlarged": "smaller than their bucket by more than a quarter, so that training sees invented pixels",
    "blurry": "large enough, but without fine detail: enlarged before, or out of focus",
    "cropped": "lose more than a third of their area",
    "duplicate": "the same bytes more than once: they count as often",
    "near duplicate": "look the same: another size, format or quality of one picture",
    "no caption": "trained with an empty caption, or with the trigger word alone",
    "caption cut": "longer than every text encoder reads",
}
_ENLARGED = 1.25
_CROPPED = 1 / 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing about one item."""

    kind: Kind
    item: int  # position in the check's items
    text: str


def findings_of(
    items: Sequence[Item],
    entries: Mapping[int, Sequence[Entry]],
    examined: Mapping[int, Examined],
    worded: Sequence[Worded],
) -> list[Finding]:
    """All findings, by kind and item; `entries` and `examined` are by position in `items`."""
    return [
        *(
            Finding(kind="damaged", item=i, text=one.damage)
            for i, one in examined.items()
            if one.damage is not None
        ),
        *_about_sizes(items, entries),
        *_about_sharpness(entries, examined, items),
        *_about_twins(items, examined),
        *_about_captions(worded),
    ]


def enlargement(entry: Entry) -> float:
    """How much larger an image becomes to cover its bucket; below 1 it shrinks."""
    return max(entry.bucket[0] / entry.item.width, entry.bucket[1] / entry.item.height)


def _about_sizes(items: Sequence[Item], entries: Mapping[int, Sequence[Entry]]) -> Iterator[Finding]:
    for i, item in enumerate(items):
        used = entries.get(i, ())
        if not used:
            yield Finding(kind="too small", item=i, text=f"{item.width}x{item.height}")
            continue
        largest = max(used, key=enlargement)
        if (factor := enlargement(largest)) > _ENLARGED:
            size = f"{item.width}x{item.height} for {largest.bucket[0]}x{largest.bucket[1]}"
            yield Finding(kind="enlarged", item=i, text=f"{factor:.2f} times: {size}")
        lost = max(crop_loss(item.width, item.height, entry.bucket) for entry in used)
        if lost > _CROPPED:
            yield Finding(
                kind="cropped", item=i, text=f"{lost:.0%} of {item.width}x{item.height} are cut away"
            )


def _about_sharpness(
    entries: Mapping[int, Sequence[Entry]], examined: Mapping[int, Examined], items: Sequence[Item]
) -> Iterator[Finding]:
    for i, one in examined.items():
        if one.detail is None or one.detail >= BLURRY:
            continue
        if not any(enlargement(entry) > _ENLARGED for entry in entries.get(i, ())):  # else that is the reason
            size = f"{items[i].width}x{items[i].height}"
            yield Finding(kind="blurry", item=i, text=f"{size}, detail {one.detail:.3f} (below {BLURRY})")


def _about_twins(items: Sequence[Item], examined: Mapping[int, Examined]) -> Iterator[Finding]:
    same: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        same.setdefault(item.content, []).append(i)
    yield from _named(
        "duplicate", (group for group in same.values() if len(_places(group, items)) > 1), items
    )
    firsts = [group[0] for group in same.values() if group[0] in examined]
    groups = alike([examined[i].likeness for i in firsts])
    yield from _named("near duplicate", ([firsts[i] for i in group] for group in groups), items)


def _places(group: Iterable[int], items: Sequence[Item]) -> set[str]:
    """Where they lie: several tables may use one file, at several resolutions."""
    return {items[i].place.key for i in group}


def _named(
    kind: Literal["duplicate", "near duplicate"], groups: Iterable[Sequence[int]], items: Sequence[Item]
) -> Iterator[Finding]:
    for group in groups:
        for i in group:
            others = [items[other].name for other in group if items[other].place.key != items[i].place.key]
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            yield Finding(kind=kind, item=i, text=f"of {', '.join(others[:3])}{more}")


def _about_captions(worded: Sequence[Worded]) -> Iterator[Finding]:
    for i, one in enumerate(worded):
        if one.empty:
            yield Finding(kind="no caption", item=i, text=one.texts[0] or "(empty)")
        if one.cut:
            most = max(one.tokens, key=lambda count: count.read)
            text = f"{counted(most.tokens, 'token')}, {most.encoder} reads {most.read}"
            yield Finding(kind="caption cut", item=i, text=text)
