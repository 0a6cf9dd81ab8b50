"""One thing that was looked at on a machine, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "remark", "problem"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A remark is worth knowing and keeps nothing from working; a problem does. `remedy`: what to do, where not ok."""

    name: str
    level: Level = "ok"
    found: str
    remedy: str = ""
