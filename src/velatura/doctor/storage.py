"""Memory, and the disks that caches, models and runs go to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from velatura.checkpoints.cache_folder import default_cache_folder
from velatura.data.caches.cache_place import existing_part, readable
from velatura.doctor.check import Check
from velatura.placement.machine import machine_memory

GIB = 2**30
FLUX_LOADING = 24 * 10**9  # bytes of main memory that loading FLUX.1 takes
LEAST = 1 * GIB  # on any disk; below it the first state or download fails


def storage() -> Iterator[Check]:
    """Checks of memory, of disks and write access, and of the model hub's settings."""
    yield _memory()
    yield place(
        "cache", default_cache_folder(), 20 * GIB, "VELATURA_CACHE, or memory.cache_folder in the recipe"
    )
    yield place("runs", Path("runs").absolute(), 20 * GIB, "output.folder in the recipe")
    yield from _hub()
    yield place("temporary files", Path(tempfile.gettempdir()), 2 * GIB, "TMPDIR")


def _memory() -> Check:
    memory = machine_memory()
    found = f"{readable(memory.free)} of {readable(memory.total)} free"
    if memory.total < memory.installed:
        found += f" (the container's limit; the machine has {readable(memory.installed)})"
    if memory.total >= FLUX_LOADING:
        return Check(name="memory", found=found)
    return Check(
        name="memory",
        level="remark",
        found=found,
        remedy=f"enough for Stable Diffusion 1.x and the pocket models; loading FLUX.1 takes {readable(FLUX_LOADING)}",
    )


def place(name: str, folder: Path, wanted: int, setting: str) -> Check:
    """Whether files can be written at a place, perhaps yet to be made; `setting` is where another one is chosen."""
    existing = existing_part(folder)
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(4096))
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Check(
            name=name,
            level="problem",
            found=f"{folder} cannot be written: {error.strerror or error}",
            remedy=f"allow it, or choose another folder: {setting}",
        )
    found = f"{folder}, {readable(free)} free"
    if free >= wanted:
        return Check(name=name, found=found)
    return Check(
        name=name,
        level="problem" if free < LEAST else "remark",
        found=found,
        remedy=f"make room (real models take {readable(wanted)} and more), or choose another disk: {setting}",
    )


def _hub() -> Iterator[Check]:
    try:
        from huggingface_hub import constants
    except ImportError as error:
        yield Check(
            name="hub",
            level="problem",
            found=f"huggingface_hub cannot be imported: {error}",
            remedy="python -m pip install --upgrade huggingface_hub",
        )
        return
    yield place("hub's cache", Path(constants.HF_HUB_CACHE), 40 * GIB, "HF_HOME")
    if constants.HF_HUB_OFFLINE:
        yield Check(
            name="hub", found="offline (HF_HUB_OFFLINE): nothing is downloaded, only its cache is used"
        )
    else:
        yield Check(name="hub", found="online: models given by a hub id are downloaded once")
