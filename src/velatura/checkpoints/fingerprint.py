"""A cheap identity of weights files, for cache keys and metadata.

It hashes (blake2b) the size, the header and `SAMPLE` bytes from the middle of every tensor; files of at most
`WHOLE` bytes are hashed entirely, other formats at `POINTS` evenly spaced places. Names, folders and times do
not count, so a copy has the same fingerprint. An edit that spares every sampled place would go unseen:
training changes all values, so it does not; whoever must exclude it hashes the whole file
(`hashes.file_sha256`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from velatura.checkpoints.header import read_header
from velatura.checkpoints.reader import open_file
from velatura.errors import CheckpointError

SAMPLE = 4096
POINTS = 256
WHOLE = 4 * 1024 * 1024


def fingerprint(paths: Path | str | Sequence[Path | str]) -> str:
    """32 hex digits for one file, or for several in any order. Raises CheckpointError."""
    several = [paths] if isinstance(paths, Path | str) else list(paths)
    digests = sorted(_of_file(Path(path)) for path in several)
    if len(digests) == 1:
        return digests[0].hex()
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()


def _of_file(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    try:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                return digest.digest()
            for start, count in _places(path, size):
                file.seek(start)
                digest.update(file.read(count))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror}; give the path of a file."
        ) from error
    return digest.digest()


def _places(path: Path, size: int) -> Iterable[tuple[int, int]]:
    """Which (start, count) byte ranges of a large file are hashed."""
    if path.suffix != ".safetensors":
        yield from ((size * point // POINTS, SAMPLE) for point in range(POINTS))
        yield size - SAMPLE, SAMPLE
        return
    with open_file(path) as file:
        header = read_header(file, path)
    yield 0, 8 + len(header.raw)
    for entry in header.entries.values():
        count = min(SAMPLE, entry.stop - entry.start)
        yield (entry.start + entry.stop - count) // 2, count
