"""How plans write sizes and times."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor

from velatura.data.caches.cache_place import unit_for


def enough(needed: int) -> str:
    """What is needed, and what it fits in, for people: rounded up, so that it is enough as a budget."""
    return _in_tenths(needed, ceil)


def within(budget: int) -> str:
    """What something does not fit in, for people: rounded down, so that it is less than what would be enough."""
    return _in_tenths(budget, floor)


def _in_tenths(count: int, rounded: Callable[[float], int]) -> str:
    unit, name = unit_for(count)
    return f"{rounded(round(10 * count / unit, 6)) / 10:.1f} {name}"


def seconds(count: float) -> str:
    """A time for people."""
    if count >= 48 * 3600:
        return f"{count / 86400:.0f} days"
    if count >= 5400:
        return f"{count / 3600:.1f} h"
    if count >= 90:
        return f"{count / 60:.0f} min"
    return f"{count:.2g} s" if count < 10 else f"{count:.0f} s"
