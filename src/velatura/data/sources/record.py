"""What every reader yields: one image as its source describes it, before any byte of it was read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from velatura.data.items import Role
from velatura.data.places import Place
from velatura.data.text.captions import Caption
from velatura.recipe.data.items import SourceData


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """An image, its caption and its companions. `own` overrides fields of the source's `Treatment`.

    A caption may lie in a file of its own: then `caption_place` is read while the images are.
    """

    name: str  # as the recipe's author would write it, for messages
    image: Place
    caption: Caption = field(default_factory=Caption)
    caption_place: Place | None = None
    companions: Mapping[Role, Place] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None  # width, height where the source's own index tells them


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """The tables that one `[[data]]` table stands for, and what a user should hear about how they came about."""

    sections: Sequence[SourceData]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Names:
    """All that a reading depends on besides its table and what is in the files."""

    root: Path  # as that of the reading
    names: Sequence[str]  # of its folders, and of everything in them


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All records of a source in a stable order, what was wrong with others, and what a user should hear."""

    source: str  # what to call it in messages
    root: Path  # the folder or file on this machine: what a scan is remembered under
    records: Iterable[Record]
    unusable: tuple[tuple[str, str], ...] = ()  # name and reason: unmatched pairs, paths that are refused
    notices: tuple[str, ...] = ()
