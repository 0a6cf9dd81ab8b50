"""From `[[data]]` tables to items: every file is checked, hashed and captioned before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from velatura.data.captions import Caption, read_caption
from velatura.data.items import Companion, Item, Quarantined, Role, Scan, Treatment, check_bad_share
from velatura.data.places import Place
from velatura.data.probe import MAX_BYTES, BadImageError, Probe, check_pixels, probe
from velatura.data.progress import Phase, phase
from velatura.data.remarks import Found, remarks
from velatura.data.remembered import Remembered
from velatura.data.sources.readers import expand, read
from velatura.data.sources.record import Reading, Record
from velatura.errors import DataError, StorageError
from velatura.events import Events
from velatura.recipe.data.items import SourceData

THOROUGH_UP_TO = 2000  # images of one source: up to here every pixel is decoded once to check it
_CHUNK = 16  # records that a thread takes at once
_SAME_RATIO = 0.01  # how far a companion's aspect ratio may be from its image's


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
    expanded = tuple(one for section in sections for one in expand(section, base))
    items: list[Item] = []
    bad: list[Quarantined] = []
    notices: list[str] = []
    readings = [read(section, base) for section in expanded]
    listed = [list(reading.records) for reading in readings]
    with phase(events, "scan", sum(len(records) for records in listed)) as progress:
        for number, (section, reading, records) in enumerate(zip(expanded, readings, listed, strict=True)):
            known = Remembered(memory, reading.root)
            found, unusable = _scan_source(section, reading, records, number, progress, thorough, known)
            items += [entry.item for entry in found]
            bad += unusable
            notices += [*reading.notices, *remarks(reading.source, section, found)]
            _save(known, events)
    for notice in notices:
        events.notice(notice)
    for one in bad:
        events.warn(f"left out {one}")
    return Scan(sections=expanded, items=tuple(items), quarantined=tuple(bad), notices=tuple(notices))


def _save(known: Remembered, events: Events) -> None:
    try:
        known.save()
    except StorageError as error:
        events.warn(f"the scan could not be remembered: {error}")


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
    for record, result in _look_at_all(records, deep, section.max_pixels, progress, known):
        if isinstance(result, str):
            bad.append(Quarantined(name=record.name, reason=result))
            continue
        image, caption, companions = result
        item = Item(
            name=record.name,
            place=record.image,
            caption=caption,
            width=image.width,
            height=image.height,
            content=image.content,
            source=number,
            treatment=replace(treatment, **record.own) if record.own else treatment,
            companions=companions,
        )
        found.append(Found(item=item, frames=image.frames))
    check_bad_share(reading.source, bad, len(records) + len(reading.unusable), section.max_bad)
    return found, bad


_Looked = tuple[Probe, Caption, dict[Role, Companion]]


def _look_at_all(
    records: Sequence[Record], thorough: bool, max_pixels: int, progress: Phase, known: Remembered
) -> Iterator[tuple[Record, _Looked | str]]:
    """Each record with what its files hold, or the reason why it cannot be used; in order, by several threads."""

    def look(chunk: Sequence[Record]) -> list[_Looked | str]:
        return [_look_at(record, thorough, max_pixels, known) for record in chunk]

    workers = min(8, os.cpu_count() or 1) if thorough else 2  # decoding runs beside Python, headers do not
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="scan") as pool:
        chunks = [records[i : i + _CHUNK] for i in range(0, len(records), _CHUNK)]
        for chunk, results in zip(chunks, pool.map(look, chunks), strict=True):
            progress.advance(len(chunk))
            yield from zip(chunk, results, strict=True)


def _look_at(record: Record, thorough: bool, max_pixels: int, known: Remembered) -> _Looked | str:
    try:
        image = _probe(record.image, thorough, max_pixels, known)
        companions = {
            role: _companion(role, place, image, thorough, max_pixels, known)
            for role, place in record.companions.items()
        }
    except BadImageError as error:
        return str(error)
    return image, _caption(record, known), companions


def _companion(
    role: Role, place: Place, image: Probe, thorough: bool, max_pixels: int, known: Remembered
) -> Companion:
    try:
        found = _probe(place, thorough, max_pixels, known)
    except BadImageError as error:
        raise BadImageError(f"its {role} image {place.key}: {error}") from None
    ratio = found.width * image.height / (found.height * image.width)
    if abs(ratio - 1) > _SAME_RATIO and role != "reference":
        raise BadImageError(
            f"its {role} image is {found.width}x{found.height} and does not fit {image.width}x{image.height}"
        )
    return Companion(place=place, content=found.content, width=found.width, height=found.height)


def _probe(place: Place, thorough: bool, max_pixels: int, known: Remembered) -> Probe:
    """What is known of an image, or what its bytes say. Raises BadImageError with the reason."""
    try:
        stamp = place.stamp()
        found = known.probe(place.key, stamp, thorough=thorough)
        if found is None:
            if stamp[0] > MAX_BYTES:
                raise BadImageError(f"larger than {MAX_BYTES // 2**30} GiB")
            found = probe(place.read(), thorough=thorough, max_pixels=max_pixels)
            known.keep(place.key, stamp, found, thorough=thorough)
    except FileNotFoundError:
        raise BadImageError("a broken link, or deleted just now") from None
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror}" if error.strerror else str(error)) from None
    check_pixels((found.width, found.height), max_pixels)
    return found


def _caption(record: Record, known: Remembered) -> Caption:
    """From the caption's own file if it has one, else as the reader found it."""
    place = record.caption_place
    if place is None:
        return record.caption
    try:
        stamp = place.stamp()
        caption = known.caption(place.key, stamp)
        if caption is None:
            caption = read_caption(place.read())
            known.keep(place.key, stamp, caption)
    except OSError as error:
        raise DataError(f"caption '{place.key}' cannot be read: {error.strerror or error}.") from error
    return caption
