"""From `[[data]]` tables to items: every file is checked, hashed and captioned before anything is trained."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from velatura.data.captions import Caption, caption_from_name, read_caption, with_trigger
from velatura.data.folder import Listing, list_folder, stem_of
from velatura.data.items import Item, Quarantined, Scan, check_bad_share
from velatura.data.probe import MAX_BYTES, BadImageError, Probe, probe
from velatura.data.progress import Phase, phase
from velatura.data.remarks import Found, remarks
from velatura.data.remembered import Remembered, stamp_of
from velatura.errors import DataError, StorageError
from velatura.events import Events
from velatura.recipe.data.folder import FolderData

THOROUGH_UP_TO = 2000  # files of one source: up to here every pixel is decoded once to check it
_CHUNK = 16  # files that a thread takes at once


def scan(
    sections: Sequence[FolderData],
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
    Raises DataError for a missing or empty folder, and where more than `max_bad` of its images are unusable.
    """
    listings = [list_folder(section, base) for section in sections]
    with phase(events, "scan", sum(len(listing.images) for listing in listings)) as progress:
        scans = []
        for source, (section, listing) in enumerate(zip(sections, listings, strict=True)):
            known = Remembered(memory, listing.root)
            scans.append(_scan_folder(section, listing, source, progress, thorough, known))
            _save(known, events)
    whole = Scan.join(scans)
    for notice in whole.notices:
        events.notice(notice)
    for bad in whole.quarantined:
        events.warn(f"left out {bad}")
    return whole


def _save(known: Remembered, events: Events) -> None:
    try:
        known.save()
    except StorageError as error:
        events.warn(f"the scan could not be remembered: {error}")


def _scan_folder(
    section: FolderData,
    listing: Listing,
    source: int,
    progress: Phase,
    thorough: bool | None,
    known: Remembered,
) -> Scan:
    deep = len(listing.images) <= THOROUGH_UP_TO if thorough is None else thorough
    found: list[Found] = []
    bad: list[Quarantined] = []
    for relative, result in _probe_all(listing, deep, progress, known):
        name, path = f"{section.folder.rstrip('/')}/{relative}", listing.root / relative
        if isinstance(result, str):
            bad.append(Quarantined(name=name, path=path, reason=result))
            continue
        caption = _caption_of(section, listing, relative, known)
        item = _item(section, name, path, caption.text, result, source)
        found.append(Found(item=item, caption=caption, frames=result.frames))
    check_bad_share(section.folder, bad, len(listing.images), section.max_bad)
    return Scan(
        items=tuple(entry.item for entry in found),
        quarantined=tuple(bad),
        notices=tuple(remarks(section, listing, found)),
    )


def _item(section: FolderData, name: str, path: Path, caption: str, found: Probe, source: int) -> Item:
    return Item(
        name=name,
        path=path,
        caption=with_trigger(section.trigger, caption),
        width=found.width,
        height=found.height,
        content=found.content,
        source=source,
        weight=section.weight,
        repeats=section.repeats,
        flip=section.flip,
        background=section.background,
    )


def _probe_all(
    listing: Listing, thorough: bool, progress: Phase, known: Remembered
) -> Iterator[tuple[str, Probe | str]]:
    """Each image with its probe, or the reason why it cannot be used; in order, read by several threads."""

    def check(names: Sequence[str]) -> list[Probe | str]:
        return [_probe_file(listing, name, thorough, known) for name in names]

    workers = min(8, os.cpu_count() or 1) if thorough else 2  # decoding runs beside Python, headers do not
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="scan") as pool:
        chunks = [listing.images[i : i + _CHUNK] for i in range(0, len(listing.images), _CHUNK)]
        for names, results in zip(chunks, pool.map(check, chunks), strict=True):
            progress.advance(len(names))
            yield from zip(names, results, strict=True)


def _probe_file(listing: Listing, relative: str, thorough: bool, known: Remembered) -> Probe | str:
    path = f"{listing.root}/{relative}"
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path for each of 100,000 files takes a second)
        stamp = stamp_of(status)
        found = known.probe(relative, stamp, thorough=thorough)
        if found is not None:
            return found
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if status.st_size > MAX_BYTES:
            return f"larger than {MAX_BYTES // 2**30} GiB"
        with open(path, "rb") as file:
            found = probe(file.read(), thorough=thorough)
    except BadImageError as error:
        return str(error)
    except FileNotFoundError:
        return "a broken link, or deleted just now"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    known.keep(relative, stamp, found, thorough=thorough)
    return found


def _caption_of(section: FolderData, listing: Listing, relative: str, known: Remembered) -> Caption:
    """From the file beside the image, else the recipe's caption, else the file name, else none."""
    beside = listing.captions.get(stem_of(relative))
    if beside is not None:
        return _caption_file(section, listing, beside, known)
    if section.caption is not None:
        return Caption(text=section.caption, origin="recipe")
    if section.caption_from_name:
        return Caption(text=caption_from_name(relative), origin="name")
    return Caption(text="", origin="none")


def _caption_file(section: FolderData, listing: Listing, relative: str, known: Remembered) -> Caption:
    path = f"{listing.root}/{relative}"
    try:
        stamp = stamp_of(os.stat(path))  # noqa: PTH116
        caption = known.caption(relative, stamp)
        if caption is None:
            caption = read_caption(Path(path))
            known.keep(relative, stamp, caption)
        return caption
    except OSError as error:
        name = f"{section.folder}/{relative}"
        raise DataError(f"caption '{name}' cannot be read: {error.strerror or error}.") from error
