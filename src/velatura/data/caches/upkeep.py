"""Looking after the caches on disk: how large they are, whether they are sound, what was not used for long."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from velatura.data.caches.shards import ShardStore
from velatura.data.progress import phase
from velatura.events import Events

KINDS = ("latents", "text")


@dataclass(frozen=True, kw_only=True)
class CacheUse:
    """One model's cache of one kind."""

    kind: str  # "latents" or "text"
    folder: Path
    entries: int
    size: int  # bytes
    last_used: float  # seconds since 1970


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The outcome of reading everything."""

    sound: int  # entries
    damaged: int  # files; they were removed, and what they held is made again when it is needed


@dataclass(frozen=True, kw_only=True)
class Unused:
    """A file of a cache that nothing needs."""

    path: Path
    size: int  # bytes


def usage(folder: Path, events: Events) -> list[CacheUse]:
    """What lies in a cache folder, one entry per kind and model, the largest first."""
    found = []
    for kind, place in _places(folder):
        status = [path.stat() for path in _shards(place)]
        found.append(
            CacheUse(
                kind=kind,
                folder=place,
                entries=len(ShardStore(place, events)),
                size=sum(one.st_size for one in status),
                last_used=max((one.st_mtime for one in status), default=0.0),
            )
        )
    return sorted(found, key=lambda use: -use.size)


def verify(folder: Path, events: Events) -> Verified:
    """Read every entry and compare its checksum; damaged files are removed, with a notice each."""
    sound = damaged = 0
    shards = {place: len(_shards(place)) for _, place in _places(folder)}
    stores = {place: ShardStore(place, events) for place in shards}  # reading the headers finds some already
    with phase(events, "verify", sum(len(store) for store in stores.values()), "entries") as progress:
        for place, store in stores.items():
            for _ in store.read(store.keys()):
                sound += 1
                progress.advance()
            damaged += shards[place] - len(_shards(place))
    return Verified(sound=sound, damaged=damaged)


def unused(
    folder: Path, events: Events, *, days: float | None = None, keep: Collection[str] = ()
) -> list[Unused]:
    """The shards that no run has read or written for so many days, and none of whose entries are in `keep`.

    Without `days` their age does not matter.
    """
    limit = None if days is None else time.time() - days * 24 * 3600
    found = []
    for _, place in _places(folder):
        kept = ShardStore(place, events).shards_of(keep) if keep else frozenset()
        for path in _shards(place):
            with suppress(OSError):  # gone already
                status = path.stat()
                if path not in kept and (limit is None or status.st_mtime < limit):
                    found.append(Unused(path=path, size=status.st_size))
    return found


def remove(folder: Path, shards: Iterable[Unused]) -> int:
    """Remove shards, and the caches in `folder` that are empty then; the bytes that were freed."""
    freed = 0
    for shard in shards:
        with suppress(OSError):  # in use on Windows, or gone already
            shard.path.unlink()
            freed += shard.size
    for _, place in _places(folder):
        with suppress(OSError):
            place.rmdir()  # only if nothing is left
    return freed


def _shards(place: Path) -> list[Path]:
    return sorted(place.glob("*.safetensors"))


def _places(folder: Path) -> Iterator[tuple[str, Path]]:
    for kind in KINDS:
        for place in sorted((folder / kind).glob("*")):
            if place.is_dir():
                yield kind, place
