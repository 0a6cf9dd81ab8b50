"""From `[[data]]` tables to items: every file is checked, hashed and captioned before anything is trained."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from velatura.data.index import Index
from velatura.data.items import Item, Quarantined, Scan, Treatment, check_bad_share
from velatura.data.listings import Listings
from velatura.data.looking import Looked, Looker
from velatura.data.progress import Phase, phase
from velatura.data.remarks import Found, remarks
from velatura.data.remembered import Remembered
from velatura.data.sources.readers import expand, read
from velatura.data.sources.record import Reading, Record
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
    with _all_stays():
        found = _scan(sections, base, events, thorough, memory)
    for notice in found.notices:
        events.notice(notice)
    for one in found.quarantined:
        events.warn(f"left out {one}")
    return found


@contextmanager
def _all_stays() -> Iterator[None]:
    """No garbage is looked for: of a hundred thousand items all stay, and looking takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _scan(
    sections: Sequence[SourceData], base: Path, events: Events, thorough: bool | None, memory: Path | None
) -> Scan:
    expansions = [expand(section, base) for section in sections]
    expanded = tuple(one for expansion in expansions for one in expansion.sections)
    items: list[Item] = []
    bad: list[Quarantined] = []
    notices = [notice for expansion in expansions for notice in expansion.notices]
    index = None if memory is None else Index(memory, events)
    listings = partial(Listings, index)
    readings = [read(section, base, listings) for section in expanded]
    listed = [list(reading.records) for reading in readings]
    with phase(events, "scan", sum(len(records) for records in listed)) as progress:
        for number, (section, reading, records) in enumerate(zip(expanded, readings, listed, strict=True)):
            with Remembered(index, reading.root) as known:
                found, unusable = _scan_source(section, reading, records, number, progress, thorough, known)
            items += [entry.item for entry in found]
            bad += unusable
            notices += [*reading.notices, *remarks(reading.source, section, found)]
    return Scan(sections=expanded, items=tuple(items), quarantined=tuple(bad), notices=tuple(notices))


def _scan_source(
    section: SourceData,
    reading: Reading,
    records: Sequence[Record],
    number: int,
    progress: Phase,
    thorough: bool | None,
    known: Remembered,
) -> tuple[list[Found], list[Quarantined]]:
    deep = len(records) <= THOROUGH_UP_TO if thorough is None else thorough
    treatment = Treatment.of(section)
    found: list[Found] = []
    bad = [Quarantined(name=name, reason=reason) for name, reason in reading.unusable]
    looker = Looker(known=known, thorough=deep, max_pixels=section.max_pixels)
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
            source=number,
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
