"""A source whose files are what they were: its items at once, without a reader and without a look into any file.

To ask for the stamps of a hundred thousand files takes a third of a second; to list, match and check them one by one
takes ten times that. So the items of a source that was sound are kept as they are, and used again while nothing
changed that they come from: the table, the names in its folders, the stamp of every file, and the code that reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import velatura
from velatura.checkpoints.stamps import packed, packed_stamps, stamp_of
from velatura.data.items import Companion, Item, Treatment
from velatura.data.places import FilePlace
from velatura.data.scanning.index import Index
from velatura.data.scanning.index_tables import Rows
from velatura.data.scanning.remembered import Remembered
from velatura.data.sources.readers import NAMES
from velatura.data.sources.record import Record
from velatura.data.text.captions import Caption
from velatura.recipe.data.items import SourceData

_LARGEST = 2**28  # bytes, of a million images; SQLite takes four times as much


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """What a scan of a source found, all of it sound."""

    items: tuple[Item, ...]
    notices: tuple[str, ...]


class Snapshot:
    """The latest sound scan of a `[[data]]` table, of a kind whose names are told; kept in the index.

    Raises DataError where a folder of the table is missing.
    """

    def __init__(self, index: Index, section: SourceData, base: Path) -> None:
        self._index = index
        self._section = section
        self._base = base
        self._root, self._names = self._look()
        self._table = _digest([velatura.__version__, _code(), section.model_dump_json()])

    def recall(self, source: int, *, deep: Callable[[int], bool]) -> Recalled | None:
        """The items, if nothing changed; `deep` tells whether of so many every pixel must have been decoded."""
        content = self._index.snapshot(self._root, self._table)
        if content is None:
            return None
        document, stamps = content.split(b"\n", 1)
        kept = json.loads(document)
        if (
            kept["names"] != self._names
            or (deep(len(kept["images"])) and not kept["thorough"])
            or _stamps_now([*_files(kept)]) != stamps
        ):
            return None
        self._index.save(self._root, Rows(), [])  # it was used, and is not to be forgotten
        items = tuple(_items(kept, source, Treatment.of(self._section)))
        return Recalled(items=items, notices=tuple(kept["notices"]))

    def keep(
        self,
        records: Sequence[Record],
        items: Sequence[Item],
        notices: Sequence[str],
        known: Remembered,
        *,
        thorough: bool,
    ) -> None:
        """Keep a scan in which every record became an item, unless its files may still change unseen."""
        kept = _columns(records, items)
        stamps = [stamp for path in _files(kept) if (stamp := known.stamp(path)) is not None]
        complete = len(stamps) == sum(1 for _ in _files(kept))
        if complete and self._look() == (self._root, self._names):  # no name came or went meanwhile
            kept |= {"names": self._names, "thorough": thorough, "notices": list(notices)}
            document = json.dumps(kept).encode() + b"\n" + packed(stamps)
            if len(document) <= _LARGEST:
                self._index.save_snapshot(self._root, self._table, document)

    def _look(self) -> tuple[str, str]:
        """The source's root, and the identity of all names that it depends on."""
        found = NAMES[self._section.kind](self._section, self._base)
        return os.path.realpath(found.root), _digest(found.names)


def _columns(records: Sequence[Record], items: Sequence[Item]) -> dict[str, Any]:
    """Items as lists of what JSON has, which are read ten times as fast as rows."""
    paths, names = [item.place.key for item in items], [item.name for item in items]
    return {
        "images": paths,
        "names of images": [] if names == paths else names,
        "sizes": [[item.width for item in items], [item.height for item in items]],
        "contents": [item.content for item in items],
        "texts": [item.caption.text for item in items],
        "origins": [item.caption.origin for item in items],
        "captions": [record.caption_place.key for record in records if record.caption_place is not None],
        "companions": {
            role: [
                [one.place.key, one.content, one.width, one.height]
                for one in (item.companions[role] for item in items)
            ]
            for role in items[0].companions
        },
    }


def _files(kept: Mapping[str, Any]) -> Iterator[str]:
    """The paths of all files that the items come from."""
    companions = (one[0] for column in kept["companions"].values() for one in column)
    return chain(kept["images"], kept["captions"], companions)


def _items(kept: Mapping[str, Any], source: int, treatment: Treatment) -> Iterator[Item]:
    paths, roles = kept["images"], kept["companions"]
    names, facts = kept["names of images"] or paths, (*kept["sizes"], kept["contents"])
    columns = zip(names, paths, kept["texts"], kept["origins"], *facts, strict=True)
    for number, (name, path, text, origin, width, height, content) in enumerate(columns):
        yield Item(
            name=name,
            place=FilePlace(path),
            caption=Caption(text=text, origin=origin),
            width=width,
            height=height,
            content=content,
            source=source,
            treatment=treatment,
            companions={role: _companion(*column[number]) for role, column in roles.items()} if roles else {},
        )


def _companion(path: str, content: str, width: int, height: int) -> Companion:
    return Companion(place=FilePlace(path), content=content, width=width, height=height)


def _stamps_now(paths: Sequence[str]) -> bytes | None:
    """The stamps of files; None where one is gone."""
    try:
        return packed_stamps(paths)
    except OSError:
        return None


def _digest(texts: Iterable[str]) -> str:
    joined = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=16).hexdigest()


@cache
def _code() -> str:
    """The identity of this room's code: what another version of it made of the files is not used."""
    room = Path(__file__).parents[1]
    return _digest(f"{path}{stamp_of(path.stat())}" for path in sorted(room.rglob("*.py")))
