"""Where caches are kept, and whether there is room for them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from velatura.errors import ModelError, StorageError

if TYPE_CHECKING:
    from velatura.interfaces import ModelInfo  # imports torch, which `runs list` has no use for


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raise StorageError when the disk of `folder` (perhaps yet to be made) has less than `needed` bytes free."""
    free = shutil.disk_usage(existing_part(folder)).free
    if needed > free:
        raise StorageError(
            f"{what} need {readable(needed)} in {folder}, where {readable(free)} are free. Make room, set "
            "memory.cache_folder to another disk, or set memory.cache = false."
        )


def existing_part(folder: Path) -> Path:
    """A folder that is perhaps yet to be made, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next((path for path in (folder, *folder.parents) if path.exists()), Path(folder.anchor))


def fingerprint(info: ModelInfo, part: str) -> str:
    """The identity of a part's weights. Raises ModelError when the family gives none."""
    found = info.fingerprints.get(part)
    if not found:
        raise ModelError(
            f"the {part} of this {info.family} model has no fingerprint, so it cannot be cached."
        )
    return found


def digest(*fields: object) -> str:
    """The name of a combination of values, 32 hex digits."""
    return hashlib.blake2b(json.dumps(fields).encode(), digest_size=16).hexdigest()


def readable(count: int) -> str:
    """Bytes for people."""
    unit, name = unit_for(count)
    return f"{count / unit:.1f} {name}"


def unit_for(count: int) -> tuple[int, str]:
    """The unit in which so many bytes are told: its size and its name."""
    return (2**30, "GiB") if count >= 2**29 else (2**20, "MiB")
