"""The machine's own memory, as far as this process may use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

LIMITS = (  # of a container: bytes, or "max"; of the second and the first kind of control groups
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes. `installed`: what there is, which a container may be allowed a part of."""

    total: int
    free: int
    installed: int


def machine_memory() -> Memory:
    """What there is, or what the container may use of it."""
    found = psutil.virtual_memory()
    total = min([found.total, *filter(None, map(_limit, LIMITS))])
    return Memory(total=total, free=min(found.available, total), installed=found.total)


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
