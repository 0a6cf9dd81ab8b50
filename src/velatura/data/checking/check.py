"""Every image decoded, every caption worded, all of it looked at: what `velatura data check` shows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from velatura.data.batching.buckets import Bucket
from velatura.data.batching.plan import Entry
from velatura.data.checking.examine import Examined, examine
from velatura.data.checking.findings import Finding, Kind, findings_of
from velatura.data.checking.wordings import TokenCounter, Worded, tag_counts, word
from velatura.data.items import Identity, Item, Quarantined
from velatura.data.progress import phase
from velatura.data.views import View
from velatura.events import Events
from velatura.plural import counted

_AHEAD = 256  # images in the hands of the threads: bounds what waits in memory


@dataclass(frozen=True, kw_only=True)
class Uses:
    """What an epoch and the run do with the images."""

    steps_per_epoch: float = 0.0
    images_per_epoch: int = 0
    epochs: float = 0.0  # in the run's steps
    small_batches: int = 0  # of an epoch's micro-batches
    of_item: Mapping[Identity, float] = field(default_factory=dict)  # uses per epoch


@dataclass(frozen=True, kw_only=True)
class Checked:
    """All that was found about a dataset."""

    name: str
    refusals: tuple[str, ...]  # why training would not start
    warnings: tuple[str, ...]  # what was said while reading
    items: tuple[Item, ...] = ()
    entries: Mapping[int, tuple[Entry, ...]] = field(default_factory=dict)  # by position in `items`
    held_out: frozenset[int] = frozenset()  # positions of items kept for validation
    examined: Mapping[int, Examined] = field(default_factory=dict)
    worded: tuple[Worded, ...] = ()
    findings: tuple[Finding, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    buckets: Mapping[Bucket, int] = field(default_factory=dict)  # uses per epoch
    tags: Counter[str] = field(default_factory=Counter)
    uses: Uses = field(default_factory=Uses)
    encoders: tuple[str, ...] = ()  # whose tokens were counted

    def counts(self) -> dict[Kind, int]:
        """How many items there are of each kind of finding."""
        return dict(Counter(finding.kind for finding in self.findings))


def check_items(
    name: str,
    items: Sequence[Item],
    training: Sequence[Entry],
    held_out: Sequence[Entry],
    events: Events,
    *,
    quarantined: Sequence[Quarantined] = (),
    refusals: Sequence[str] = (),
    warnings: Sequence[str] = (),
    buckets: Mapping[Bucket, int] | None = None,
    uses: Uses | None = None,
    counter: TokenCounter | None = None,
    seed: int = 0,
) -> Checked:
    """Decode, word and compare all items; `items` are those that are sound, also those that no entry uses."""
    found = {item.identity: item for item in (*items, *(entry.item for entry in (*training, *held_out)))}
    positions = {identity: i for i, identity in enumerate(found)}
    listed = tuple(found.values())
    entries = _by_item([*training, *held_out], positions)
    examined = _examine_all({i: _largest(used) for i, used in entries.items()}, events)
    worded = word(listed, counter, seed)
    damaged = [one.damage for one in examined.values() if one.damage is not None]
    return Checked(
        name=name,
        refusals=(*refusals, *_refusals(damaged)),
        warnings=tuple(warnings),
        items=listed,
        entries=entries,
        held_out=frozenset(positions[entry.item.identity] for entry in held_out),
        examined=examined,
        worded=tuple(worded),
        findings=tuple(findings_of(listed, entries, examined, worded)),
        quarantined=tuple(quarantined),
        buckets=buckets or {},
        tags=tag_counts(listed),
        uses=uses or Uses(),
        encoders=tuple(count.encoder for count in worded[0].tokens) if worded else (),
    )


def _by_item(entries: Sequence[Entry], positions: Mapping[Identity, int]) -> dict[int, tuple[Entry, ...]]:
    """The entries of each item, one per bucket, in the order of the items."""
    found: dict[int, dict[Bucket, Entry]] = {}
    for entry in entries:
        found.setdefault(positions[entry.item.identity], {}).setdefault(entry.bucket, entry)
    return {i: tuple(found[i].values()) for i in sorted(found)}


def _largest(entries: Sequence[Entry]) -> View:
    """The view that asks most of an image."""
    entry = max(entries, key=lambda entry: entry.bucket[0] * entry.bucket[1])
    return View(item=entry.item, bucket=entry.bucket)


def _examine_all(views: Mapping[int, View], events: Events) -> dict[int, Examined]:
    """What each view's pixels say; decoding and scaling run beside Python, so threads do."""
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="check")
    examined: dict[int, Examined] = {}
    try:
        with phase(events, "check images", len(views)) as progress:
            for chunk in _chunks(list(views.items())):
                for (i, _), found in zip(chunk, pool.map(examine, [view for _, view in chunk]), strict=True):
                    examined[i] = found
                    progress.advance()
    finally:
        pool.shutdown(cancel_futures=True)
    return examined


def _chunks(views: Sequence[tuple[int, View]]) -> Iterator[Sequence[tuple[int, View]]]:
    for start in range(0, len(views), _AHEAD):
        yield views[start : start + _AHEAD]


def _refusals(damaged: Sequence[str]) -> list[str]:
    if not damaged:
        return []
    shown = "\n".join(f"  {reason}" for reason in damaged[:5])
    more = f"\n  … and {len(damaged) - 5} more" if len(damaged) > 5 else ""
    return [f"{counted(len(damaged), 'image')} cannot be decoded:\n{shown}{more}"]
