"""From `[[data]]` tables to items: every file is checked, hashed and captioned before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from velatura.data.denials import denial_told
from velatura.data.images import allow_pixels
from velatura.data.items import Item, Quarantined, Scan, Treatment, check_bad_share
from velatura.data.progress import Phase, phase
from velatura.data.scanning.collection import no_collection
from velatura.data.scanning.index import Index
from velatura.data.scanning.listings import Listings
from velatura.data.scanning.looking import Looked, Looker
from velatura.data.scanning.remarks import Found, remarks
from velatura.data.scanning.remembered import Remembered
from velatura.data.scanning.snapshot import Snapshot
from velatura.data.sources.readers import NAMES, expand, read
from velatura.data.sources.record import Record
from velatura.events import Events
from velatura.recipe.data.items import SourceData

THOROUGH_UP_TO = 2000  # images of one source: up to here every pixel is decoded once to check it
_CHUNK = 16  # records that a thread takes at once


def scan(
    sections: Sequence[SourceData],
    base: Path,
    events: Events,
    *,
    thorough: bool | None = None,
    memory: Path | None = None,
) -> Scan:
    """Find the items of all sources.

    `base` is where relative folders start: the recipe's folder. `thorough` decodes every image completely; by
    default that is done for sources of up to THOROUGH_UP_TO images; in larger ones header, end marker and hash are
    checked. With a `memory` folder (the cache's), files that did not change since an earlier scan are not read
    again. Every notice of the result was also sent to `events`.
    Raises DataError for a missing or empty source, and where more than `max_bad` of its images are unusable.
    """
    with no_collection(), denial_told():
        found = _scan(sections, base, events, thorough, memory)
    for notice in found.notices:
        events.notice(notice)
    for one in found.quarantined:
        events.warn(one.notice)
    return found


def _scan(
    sections: Sequence[SourceData], base: Path, events: Events, thorough: bool | None, memory: Path | None
) -> Scan:
    expansions = [expand(section, base) for section in sections]
    expanded = tuple(one for expansion in expansions for one in expansion.sections)
    notices = [notice for expansion in expansions for notice in expansion.notices]
    allow_pixels(max((section.max_pixels for section in expanded), default=0))  # also for what is remembered
    index = None if memory is None else Index(memory, events)
    sources = [_Source(section, number, base, index, thorough) for number, section in enumerate(expanded)]
    items: list[Item] = []
    bad: list[Quarantined] = []
    with phase(events, "scan", sum(source.count for source in sources)) as progress:
        for source in sources:
            found = source.scan(progress)
            items += found.items
            bad += found.quarantined
            notices += found.notices
    return Scan(sections=expanded, items=tuple(items), quarantined=tuple(bad), notices=tuple(notices))


class _Source:
    """A table of one kind: recalled as a whole where nothing changed, else read. Raises DataError."""

    def __init__(
        self, section: SourceData, number: int, base: Path, index: Index | None, thorough: bool | None
    ) -> None:
        self._section = section
        self._number = number
        self._base = base
        self._index = index
        self._thorough = thorough
        self._snapshot = Snapshot(index, section, base) if index and section.kind in NAMES else None
        self._recalled = self._snapshot.recall(number, deep=self._deep) if self._snapshot else None
        if self._recalled is None:
            self._reading = read(section, base, partial(Listings, index))
            self._records = list(self._reading.records)

    @property
    def count(self) -> int:
        """Images, sound or not."""
        return len(self._records if self._recalled is None else self._recalled.items)

    def scan(self, progress: Phase) -> Scan:
        """All that is in the source. Raises DataError for too much that is bad."""
        if self._recalled is not None:
            progress.advance(self.count)
            return Scan(sections=(self._section,), items=self._recalled.items, notices=self._recalled.notices)
        with Remembered(self._index, self._reading.root) as known:
            found, bad = self._look(known, progress)
        items = tuple(entry.item for entry in found)
        notices = (*self._reading.notices, *remarks(self._reading.source, self._section, found))
        if self._snapshot is not None and items and not bad:
            self._snapshot.keep(self._records, items, notices, known, thorough=self._deep(self.count))
        return Scan(sections=(self._section,), items=items, quarantined=tuple(bad), notices=notices)

    def _deep(self, count: int) -> bool:
        """Whether every pixel of so many images is decoded."""
        return count <= THOROUGH_UP_TO if self._thorough is None else self._thorough

    def _look(self, known: Remembered, progress: Phase) -> tuple[list[Found], list[Quarantined]]:
        section, reading, records = self._section, self._reading, self._records
        treatment = Treatment.of(section)
        found: list[Found] = []
        bad = [Quarantined(name=name, reason=reason) for name, reason in reading.unusable]
        looker = Looker(
            known=known,
            thorough=self._deep(len(records)),
            max_pixels=section.max_pixels,
            base=self._base,
        )
        for record, looked in _look_at_all(records, looker, progress):
            if isinstance(looked, str):
                bad.append(Quarantined(name=record.name, reason=looked))
                continue
            item = Item(
                name=record.name,
                place=record.image,
                caption=looked.caption,
                width=looked.image.width,
                height=looked.image.height,
                content=looked.image.content,
                source=self._number,
                treatment=replace(treatment, **record.own) if record.own else treatment,
                companions=looked.companions,
            )
            found.append(Found(item=item, frames=looked.image.frames))
        check_bad_share(reading.source, bad, len(records) + len(reading.unusable), section.max_bad)
        return found, bad


def _look_at_all(
    records: Sequence[Record], looker: Looker, progress: Phase
) -> Iterator[tuple[Record, Looked | str]]:
    """Each record with what its files hold, or the reason why it cannot be used; in order.

    What is known is told at once; what must be read is read by several threads.
    """

    def look(chunk: Sequence[Record]) -> list[Looked | str]:
        return [looker.look(record) for record in chunk]

    recalled = [looker.recall(record) for record in records]
    unknown = [record for record, found in zip(records, recalled, strict=True) if found is None]
    progress.advance(len(records) - len(unknown))
    workers = (
        min(8, os.cpu_count() or 1) if looker.thorough else 2
    )  # decoding runs beside Python, headers do not
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="scan")
    try:
        chunks = [unknown[i : i + _CHUNK] for i in range(0, len(unknown), _CHUNK)]
        looked = chain.from_iterable(_counted(pool.map(look, chunks), progress))
        for record, found in zip(records, recalled, strict=True):
            yield record, next(looked) if found is None else found
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for all files


def _counted(chunks: Iterable[list[Looked | str]], progress: Phase) -> Iterator[list[Looked | str]]:
    for chunk in chunks:
        progress.advance(len(chunk))
        yield chunk
