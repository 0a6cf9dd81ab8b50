"""Files that a table or a manifest names: found in its folders, and nowhere else unless that was allowed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from velatura.data.places import FilePlace
from velatura.errors import DataError


class UnusableError(Exception):
    """Something that a row names cannot be used; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file, and its path as the recipe's author would write it."""

    place: FilePlace
    name: str


class Lookup:
    """Finds files by the texts that name them, in the first of several folders that has one.

    `folders` are as the recipe has them; relative ones start at `base`. Raises DataError for one that does not exist.
    """

    def __init__(self, folders: Sequence[str], base: Path, *, outside: bool) -> None:
        self._folders: list[tuple[str, str, str]] = []  # as written, as a path, without links
        for name in folders:
            folder = base / Path(name).expanduser()
            if not folder.is_dir():
                raise DataError(f"folder '{name}' does not exist (looked for {folder.absolute()}).")
            self._folders.append((name.rstrip("/"), str(folder), os.path.realpath(folder)))
        self._outside = outside
        self._plain: dict[
            str, tuple[str, frozenset[str]]
        ] = {}  # folder -> without links, its files that are none

    def find(self, text: str) -> Found:
        """The file that a text names.

        Raises UnusableError where there is none, and, unless `outside` is allowed, for absolute paths, `..` and links
        that lead out of the folders.
        """
        if "\0" in text or "://" in text or not _is_encodable(text):
            raise UnusableError(f"'{text[:200]}' is not a path of this machine; only files are read")
        if not self._outside and (_is_absolute(text) or ".." in text.replace("\\", "/").split("/")):
            raise UnusableError(
                _refusal(text, "is an absolute path" if _is_absolute(text) else "contains '..'")
            )
        for name, folder, top in self._folders:
            path = os.path.join(folder, text)  # noqa: PTH118 - a hundred thousand of them
            if (real := self._without_links(path)) is None:
                continue
            if not self._outside and not _within(real, top):
                raise UnusableError(_refusal(text, "is a link that leads out of the folder"))
            return Found(FilePlace(path), text if _is_absolute(text) or name == "." else f"{name}/{text}")
        looked = " and ".join(f"'{name}'" for name, _, _ in self._folders)
        raise UnusableError(f"no file '{text[:200]}' in {looked}")

    def _without_links(self, path: str) -> str | None:
        """The real path of what is there; a folder is listed once, and of its plain files no more is asked.

        Raises UnusableError where it may not be looked for.
        """
        folder, name = os.path.split(path)
        if folder not in self._plain:
            self._plain[folder] = (os.path.realpath(folder), _plain_files(folder))
        real, plain = self._plain[folder]
        if name in plain:
            return f"{real}{os.sep}{name}"
        try:
            os.lstat(path)
        except PermissionError as error:
            raise UnusableError(f"'{path}' cannot be read: {error.strerror}") from None
        except (OSError, ValueError):  # ValueError: what cannot be a path at all
            return None
        return os.path.realpath(path)


def _plain_files(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    except (OSError, ValueError):  # ValueError: what cannot be a path at all
        return frozenset()


def _is_encodable(text: str) -> bool:
    """Whether it can be the name of a file: half a character cannot."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _within(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _is_absolute(text: str) -> bool:
    return text.startswith(("/", "\\", "~")) or text[1:2] == ":"  # a drive's letter


def _refusal(text: str, why: str) -> str:
    return f"'{text[:200]}' {why}; outside = true allows files outside the folder"
