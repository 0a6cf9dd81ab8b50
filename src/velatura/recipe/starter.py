"""Starters: commented recipes to begin with, printed by `velatura recipe new KIND`."""

from __future__ import annotations

from importlib.resources import files

from velatura.errors import RecipeError
from velatura.recipe.errors import nearest

KINDS = ("flux-lora", "flux-full", "sd1-lora", "pocket-lora")


def starter(kind: str) -> str:
    """The TOML text of a starter; its first line is the command that runs it. Raises RecipeError."""
    if kind not in KINDS:
        close = nearest(kind, KINDS)
        hint = f'; did you mean "{close}"?' if close else ""
        raise RecipeError(f'received the kind "{kind}"; allowed: {", ".join(KINDS)}{hint}')
    return (files("velatura.recipe") / "starters" / f"{kind}.toml").read_text("utf-8")
