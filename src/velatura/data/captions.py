"""Captions: read from files, made complete with the trigger word, dropped at random in training."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from velatura.draws import Draw
from velatura.interfaces import Prompt

Origin = Literal["file", "guessed", "recipe", "name", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """A caption without trigger word; "guessed" is a file that is not UTF-8, read as Western European."""

    text: str
    origin: Origin


def read_caption(path: Path) -> Caption:
    """Read a caption file as one line: UTF-8, UTF-16 with its mark, else Windows-1252 or Latin-1.

    All lines belong to the caption; they and all runs of white space are joined by one space. Raises OSError.
    """
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Caption(text=_one_line(data.decode("utf-16", errors="replace")), origin="file")
    try:
        return Caption(text=_one_line(data.decode("utf-8-sig")), origin="file")
    except UnicodeDecodeError:
        return Caption(text=_one_line(_western(data)), origin="guessed")


def caption_from_name(name: str) -> str:
    """A file's name as a caption: no extension, underscores as spaces."""
    return _one_line(PurePath(name).stem.replace("_", " "))


def with_trigger(trigger: str | None, caption: str) -> str:
    """`trigger, caption`; a caption that begins with the trigger word stays as it is."""
    if not trigger or caption == trigger:
        return caption or (trigger or "")
    if caption.startswith(trigger) and not caption[len(trigger)].isalnum():
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def dropped(draw: Draw, caption_dropout: float) -> list[bool]:
    """Per slot of `draw`: is the caption replaced by the empty one in this step?"""
    if caption_dropout <= 0:
        return [False] * len(draw.slots)
    return [value < caption_dropout for value in draw.uniform("caption dropout").tolist()]


def prompts_for(captions: list[str], draw: Draw, caption_dropout: float) -> tuple[Prompt, ...]:
    """The prompts of a batch, one per slot of `draw`."""
    drops = dropped(draw, caption_dropout)
    return tuple(Prompt(text="" if drop else text) for text, drop in zip(captions, drops, strict=True))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _western(data: bytes) -> str:
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")
