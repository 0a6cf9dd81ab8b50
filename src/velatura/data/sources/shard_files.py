"""The shards that a text names: a folder of them, one file, or many by `*` and `{000..012}`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Set
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

from velatura.data.items import some
from velatura.data.sources.listing import is_folder
from velatura.errors import DataError
from velatura.plural import counted

_MAX = 100_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_MOST_BRACES = 20
_MOST_WILD = 100  # each is compared with every name
_MOST_WRITTEN = 255 * _MAX  # characters of all names together; file systems allow 255 each
_SHOWN = 200  # characters of a pattern, in messages
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def shard_files(text: str, base: Path) -> list[tuple[str, str]]:
    """Each shard as the recipe's author would write it, and its path, in order of name.

    Raises DataError where nothing fits, where a shard that is named does not exist, and for compressed ones.
    """
    whole = os.path.isdir(base / Path(text).expanduser())  # noqa: PTH112 - a pattern may be longer than any name
    folder, pattern = (text.rstrip("/"), "") if whole else os.path.split(text)
    root = base / Path(folder).expanduser()
    if not os.path.isdir(root):  # noqa: PTH112
        raise DataError(
            f"folder '{folder}' of shards does not exist (looked for {root.absolute()}). "
            "Relative paths start at the recipe's own folder."
        )
    there = {
        entry.name for entry in os.scandir(root) if not is_folder(entry) and not entry.name.startswith(".")
    }
    fitting = _fitting(pattern, there, folder) if pattern else there
    names = sorted(name for name in fitting if pattern or name.lower().endswith((".tar", *_COMPRESSED)))
    if packed := [name for name in names if name.lower().endswith(_COMPRESSED)]:
        raise DataError(
            f"{counted(len(packed), 'shard')} in '{folder}' cannot be read singly, for compression: {some(packed)}. "
            "Unpack to plain .tar files; pictures do not get smaller by compression."
        )
    if not names:
        raise DataError(f"no shard fits '{text}'; expected files that end in .tar in '{folder}'.")
    return [(f"{folder}/{name}" if folder else name, str(root / name)) for name in names]


def _fitting(pattern: str, there: Set[str], folder: str) -> set[str]:
    """The names that a pattern stands for. Raises DataError where one without `*` is not there."""
    shown = pattern if len(pattern) <= _SHOWN else f"{pattern[:_SHOWN]}…"
    if len(_BRACES.findall(pattern)) > _MOST_BRACES:
        raise DataError(f"'{shown}' has more than {_MOST_BRACES} braces; write a `*` instead.")
    wild: set[str] = set()
    named: set[str] = set()
    written = 0
    for number, part in enumerate(_expanded(pattern)):
        written += len(part)
        if number == _MAX or written > _MOST_WRITTEN:
            raise _too_many(shown)
        (wild if any(sign in part for sign in "*?[") else named).add(part)
        if len(wild) > _MOST_WILD:
            raise DataError(
                f"'{shown}' stands for more than {_MOST_WILD} patterns; write one `*` for its braces."
            )
    if missing := sorted(named - there):
        raise DataError(
            f"{counted(len(missing), 'shard')} of '{shown}' not found in '{folder or '.'}': {some(missing)}."
        )
    return named.union(name for name in there if any(fnmatchcase(name, part) for part in wild))


def _too_many(pattern: str) -> DataError:
    return DataError(
        f"'{pattern}' stands for more than {_MAX:,} shards, or for names too long; write fewer braces, or a `*`."
    )


def _expanded(pattern: str) -> Iterator[str]:
    """`{a,b}` and `{000..012}` written out, the innermost first; a number keeps the width that it is written with."""
    pieces = _BRACES.split(pattern)  # what is within braces is at odd places
    if len(pieces) == 1:
        yield pattern
        return
    choices: list[list[str]] = []
    for place, piece in enumerate(pieces):
        choices.append(_choices(piece) if place % 2 else [piece])
        if math.prod(map(len, choices)) > _MAX:
            raise _too_many(pattern[:_SHOWN])
    for chosen in product(*choices):
        yield from _expanded("".join(chosen))


def _choices(within: str) -> list[str]:
    """What a pair of braces stands for."""
    span = _RANGE.fullmatch(within)
    if span is None:
        return within.split(",")
    first, last, width = int(span[1]), int(span[2]), len(span[1])
    if not first <= last < first + _MAX:
        raise DataError(f"'{{{within}}}' in the shards' names must count up, over at most {_MAX:,} numbers.")
    return [f"{number:0{width}}" for number in range(first, last + 1)]
