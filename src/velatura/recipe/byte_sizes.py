"""Sizes as people write them: `24GiB`, `24 GB`, `24G`, `24`."""

from __future__ import annotations

import re

from velatura.errors import RecipeError

_UNITS = {"": 2**30, "g": 2**30, "gib": 2**30, "gb": 10**9, "m": 2**20, "mib": 2**20, "mb": 10**6}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def size_in_bytes(text: str) -> int:
    """Bytes; a bare number is GiB. Raises RecipeError."""
    found = _SIZE.fullmatch(text)
    unit = None if found is None else _UNITS.get(found[2].lower())
    allowed = "allowed: a number above 0 with GiB, GB, MiB or MB, for example 24GiB"
    if found is None or unit is None or float(found[1]) == 0:
        raise RecipeError(f"received the size '{text}'; {allowed}")
    size = int(float(found[1]) * unit)
    if not size:
        raise RecipeError(f"received the size '{text}', which is less than one byte; {allowed}")
    return size
