"""The shards that a text names: a folder of them, one file, or many by `*` and `{000..012}`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Set
from fnmatch import fnmatchcase
from pathlib import Path

from velatura.data.items import some
from velatura.data.sources.listing import is_folder
from velatura.errors import DataError
from velatura.plural import counted

_MAX = 100_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_MOST_BRACES = 20
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
    if len(_BRACES.findall(pattern)) > _MOST_BRACES:
        raise DataError(f"'{pattern[:200]}' has more than {_MOST_BRACES} braces; write a `*` instead.")
    found: set[str] = set()
    missing = []
    for number, part in enumerate(_expanded(pattern)):
        if number == _MAX:
            raise DataError(
                f"'{pattern}' stands for more than {_MAX:,} shards; write fewer braces, or a `*`."
            )
        if any(sign in part for sign in "*?["):
            found.update(name for name in there if fnmatchcase(name, part))
        elif part in there:
            found.add(part)
        else:
            missing.append(part)
    if missing:
        raise DataError(
            f"{counted(len(missing), 'shard')} of '{pattern}' not found in '{folder or '.'}': {some(missing)}."
        )
    return found


def _expanded(pattern: str) -> Iterator[str]:
    """`{a,b}` and `{000..012}` written out; a number keeps the width that it is written with."""
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    span = _RANGE.fullmatch(found[1])
    if span is None:
        choices = found[1].split(",")
    else:
        first, last, width = int(span[1]), int(span[2]), len(span[1])
        if not first <= last < first + _MAX:
            raise DataError(
                f"'{{{found[1]}}}' in the shards' names must count up, over at most {_MAX:,} numbers."
            )
        choices = [f"{number:0{width}}" for number in range(first, last + 1)]
    for choice in choices:
        yield from _expanded(pattern[: found.start()] + choice + pattern[found.end() :])
