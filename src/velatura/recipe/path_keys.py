"""Keys whose text names something on disk: marked where they are declared, and listed nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo

from velatura.recipe.lines import KeyPath
from velatura.recipe.section import Section

LONGEST_NAME, LONGEST_PATH = (
    255,
    2048,
)  # bytes; systems allow no longer names, and paths of twice that with their base


@dataclass(frozen=True)
class Names:
    """What the text of a key points at.

    "either": a file or a folder. "pattern": several files by `*` or braces in the last part, which is not looked for.
    "model": a file, a folder, a hub id or a model inside the package. "new": a folder that is made when it is needed.
    """

    what: Literal["file", "folder", "either", "pattern", "model", "new"]


def sound_path(text: str) -> str:
    """The text, if it can be a path. Raises ValueError that says why not, before any call to the system does."""
    if len(_encoded(text)) > LONGEST_PATH or any(
        len(_encoded(name)) > LONGEST_NAME for name in Path(text).parts
    ):
        raise ValueError(
            f"received a path of {len(text):,} characters; allowed: at most {LONGEST_PATH:,} bytes, and {LONGEST_NAME} "
            "between two slashes"
        )
    return sound_pattern(text)


def sound_pattern(text: str) -> str:
    """As `sound_path`, for what stands for several files and may be longer than each of them."""
    _encoded(text)
    if "\0" in text:
        raise ValueError("received a path with a NUL in it; allowed: a path of this machine")
    try:
        Path(text).expanduser()
    except RuntimeError:
        user = Path(text).parts[0]
        raise ValueError(
            f'received "{text}"; there is no user {user[1:]} whose home folder {user} could be'
        ) from None
    return text


def _encoded(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"received {ascii(text)[:100]}, which is no Unicode text; allowed: a path") from None


FilePath = Annotated[str, Field(min_length=1), AfterValidator(sound_path), Names("file")]
FileOrFolder = Annotated[str, Field(min_length=1), AfterValidator(sound_path), Names("either")]
FolderPath = Annotated[str, Field(min_length=1), AfterValidator(sound_path), Names("folder")]
FilesPattern = Annotated[str, Field(min_length=1), AfterValidator(sound_pattern), Names("pattern")]
ModelPath = Annotated[str, Field(min_length=1), AfterValidator(sound_path), Names("model")]
NewFolder = Annotated[str, Field(min_length=1), AfterValidator(sound_path), Names("new")]


@dataclass(frozen=True, kw_only=True)
class NamedPath:
    """One such text of a recipe, and the key that it is the value of."""

    at: KeyPath
    text: str
    names: Names


def named_paths(section: Section, at: KeyPath = ()) -> Iterator[NamedPath]:
    """All texts in a section that name something on disk, those of the sections inside it included."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        names = _names(field)
        entries = list(enumerate(value)) if isinstance(value, list) else []
        for key, entry in [((*at, name), value), *(((*at, name, index), entry) for index, entry in entries)]:
            if isinstance(entry, Section):
                yield from named_paths(entry, key)
            elif isinstance(entry, str) and names:
                yield NamedPath(at=key, text=entry, names=names)


def with_texts(section: Section, texts: dict[KeyPath, str], at: KeyPath = ()) -> Any:
    """A copy of a section with other texts at the given keys."""
    changes: dict[str, Any] = {}
    for name in type(section).model_fields:
        value, key = getattr(section, name), (*at, name)
        if isinstance(value, list):
            changed: Any = [_changed(entry, texts, (*key, index)) for index, entry in enumerate(value)]
        else:
            changed = _changed(value, texts, key)
        if changed != value:
            changes[name] = changed
    return section.model_copy(update=changes)


def _changed(value: Any, texts: dict[KeyPath, str], key: KeyPath) -> Any:
    return with_texts(value, texts, key) if isinstance(value, Section) else texts.get(key, value)


def _names(field: FieldInfo) -> Names | None:
    """The mark of a key, also where it sits inside a union or a list."""
    return next((mark for mark in _marks(field.annotation, field.metadata) if isinstance(mark, Names)), None)


def _marks(annotation: Any, metadata: Any = ()) -> Iterator[Any]:
    yield from metadata
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from _marks(part)
