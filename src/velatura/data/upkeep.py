"""Looking after the caches on disk: how large they are, whether they are sound, what was not used for long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from velatura.data.shards import ShardStore
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


def usage(folder: Path, events: Events) -> list[CacheUse]:
    """What lies in a cache folder, one entry per kind and model, the largest first."""
    found = []
    for kind, place in _places(folder):
        status = [path.stat() for path in place.glob("*.safetensors")]
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
    for _, place in _places(folder):
        shards = len(list(place.glob("*.safetensors")))
        store = ShardStore(place, events)
        sound += sum(1 for _ in store.read(store.keys()))
        damaged += shards - len(list(place.glob("*.safetensors")))
    return Verified(sound=sound, damaged=damaged)


def collect(folder: Path, *, days: float) -> int:
    """Remove shards that no run has read or written for so many days; the bytes that were freed."""
    limit, freed = time.time() - days * 24 * 3600, 0
    for _, place in _places(folder):
        for path in place.glob("*.safetensors"):
            with suppress(OSError):  # in use on Windows, or gone already
                status = path.stat()
                if status.st_mtime < limit:
                    path.unlink()
                    freed += status.st_size
        with suppress(OSError):
            place.rmdir()  # only if nothing is left
    return freed


def _places(folder: Path) -> Iterator[tuple[str, Path]]:
    for kind in KINDS:
        for place in sorted((folder / kind).glob("*")):
            if place.is_dir():
                yield kind, place
