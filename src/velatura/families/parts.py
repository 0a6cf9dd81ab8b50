"""Asking for a part that must be loaded by now."""

from __future__ import annotations

from typing import TypeVar

from velatura.errors import ModelError

PartT = TypeVar("PartT")


def loaded(part: PartT | None, what: str) -> PartT:
    """The part itself. Raises ModelError when it was not loaded, or was released."""
    if part is None:
        raise ModelError(f"this needs the {what}, and the {what} is not loaded")
    return part
