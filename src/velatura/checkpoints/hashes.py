"""The hashes by which other tools recognise weights files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from velatura.checkpoints.pending import Pending
from velatura.checkpoints.reader import open_file
from velatura.checkpoints.writing import header_bytes, payload
from velatura.errors import CheckpointError

_LEGACY = (0x100000, 0x110000)  # the only bytes that A1111's first model hash looked at


def sshs_hashes(tensors: Mapping[str, Tensor | Pending], metadata: Mapping[str, str]) -> dict[str, str]:
    """`sshs_model_hash` and `sshs_legacy_hash` of a file to be written, as sd-scripts computes them.

    Both are of the file as it would be with only the `ss_` metadata, so that other metadata may change:
    SHA-256 of the bytes after the header, and the first 8 digits of the SHA-256 of bytes 0x100000 to 0x110000
    of the whole.
    """
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    header = header_bytes(tensors, training)
    whole, legacy = hashlib.sha256(), hashlib.sha256()
    position = len(header)
    legacy.update(_window(header, 0))
    for chunk in payload(tensors):
        whole.update(chunk)
        legacy.update(_window(chunk, position))
        position += len(chunk)
    return {"sshs_model_hash": whole.hexdigest(), "sshs_legacy_hash": legacy.hexdigest()[:8]}


def _window(chunk: bytes | memoryview, position: int) -> bytes | memoryview:
    """The part of a chunk, which starts at `position`, that lies in the legacy range."""
    start, stop = (min(max(edge - position, 0), len(chunk)) for edge in _LEGACY)
    return chunk[start:stop]


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a whole file (`ss_new_sd_model_hash`, Civitai's AutoV2 is its first 10 digits).

    Raises CheckpointError.
    """
    with open_file(Path(path)) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from error


def legacy_file_hash(path: Path | str) -> str:
    """First 8 digits of the SHA-256 of bytes 0x100000 to 0x110000 (`ss_sd_model_hash`)."""
    with open_file(Path(path)) as file:
        file.seek(_LEGACY[0])
        return hashlib.sha256(file.read(_LEGACY[1] - _LEGACY[0]) or b"").hexdigest()[:8]
