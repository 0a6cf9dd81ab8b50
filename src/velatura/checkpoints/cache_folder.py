"""The user's cache folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def default_cache_folder() -> Path:
    """The user's cache folder for velatura; the environment variable VELATURA_CACHE overrides it."""
    chosen = os.environ.get("VELATURA_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "velatura"
