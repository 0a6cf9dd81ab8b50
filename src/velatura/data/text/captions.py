"""Captions as they are written down: read from files and names, before anything is done to them."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

Origin = Literal["file", "guessed", "table", "recipe", "name", "none"]


@dataclass(unsafe_hash=True, kw_only=True, slots=True)  # never changed; not frozen, as `Item`
class Caption:
    """A caption as it is written down; "guessed" is a file that is not UTF-8, read as Western European."""

    text: str = ""  # lines are kept: they may be alternatives
    origin: Origin = "none"
    tags: tuple[tuple[str, float], ...] = ()  # with weights, after the text; for sources that know them apart
    max_length: int | None = None  # characters, where the item itself limits them


def decode_text(data: bytes) -> tuple[str, Origin]:
    """The text of a file, and whether its encoding was guessed: UTF-8, UTF-16 with its mark, else Western.

    Raises ValueError for what is no text in any of these.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace"), "file"
    if b"\0" in data:
        raise ValueError("holds zero bytes: it is no text, or UTF-16 without its mark; save it as UTF-8")
    try:
        return data.decode("utf-8-sig"), "file"
    except UnicodeDecodeError:
        return _western(data), "guessed"


def read_caption(data: bytes) -> Caption:
    """A caption file: its lines, each with single spaces, empty ones left out. Raises ValueError as `decode_text`."""
    text, origin = decode_text(data)
    return Caption(text=tidy(text), origin=origin)


def caption_from_name(name: str) -> Caption:
    """A file's name as a caption: no extension, underscores as spaces."""
    return Caption(text=tidy(PurePath(name).stem.replace("_", " ")), origin="name")


def tidy(text: str) -> str:
    """Lines with single spaces, empty ones left out."""
    return "\n".join(line for line in (" ".join(line.split()) for line in text.splitlines()) if line)


def _western(data: bytes) -> str:
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")
