"""The files of a data folder: images, caption files, and what else is there."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from velatura.data.images import EXTENSIONS
from velatura.data.sources.pairs import composed, stem_of
from velatura.errors import DataError
from velatura.plural import counted
from velatura.recipe.data.sources.folder import FolderData

KINDS = "png, jpg, jpeg, webp, bmp, tif, tiff, gif, avif"
_COMPANION_EXTENSIONS = EXTENSIONS | {".npy"}


@dataclass(kw_only=True)
class Listing:
    """The files of a folder, as POSIX paths relative to it, in order of name."""

    root: Path
    images: list[str] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)  # stem -> caption file
    other: Counter[str] = field(default_factory=Counter)  # extensions of all other files
    stray: dict[str, str] = field(default_factory=dict)  # stem -> a text file of another extension
    hidden: int = 0
    subfolders: int = 0


def list_folder(section: FolderData, base: Path) -> Listing:
    """List a source's folder; raises DataError when it is missing or holds no image."""
    root = base / Path(section.folder).expanduser()
    _check_is_folder(section.folder, root)
    listing = _sorted(root, _extensions(section), recursive=section.recursive)
    if not listing.images:
        raise DataError(_why_empty(section, listing))
    return listing


def names_below(name: str, base: Path, *, recursive: bool) -> list[str]:
    """All that a listing tells of: where the folder is, and the names in it, in order. Raises DataError."""
    root = base / Path(name).expanduser()
    _check_is_folder(name, root)
    real, listing = os.path.realpath(root), Listing(root=root)
    found = sorted(_walk(root, "", listing, {real}, recursive=recursive))
    return [str(root), real, f"{listing.hidden} hidden, {listing.subfolders} folders", *found]


def list_companions(name: str, base: Path, *, recursive: bool) -> tuple[Path, list[str]]:
    """A folder of companions, and its images and arrays by relative path, in order. Raises DataError."""
    root = base / Path(name).expanduser()
    _check_is_folder(name, root)
    found = sorted(_walk(root, "", Listing(root=root), {os.path.realpath(root)}, recursive=recursive))
    return root, [path for path in found if posixpath.splitext(path)[1].lower() in _COMPANION_EXTENSIONS]


def _check_is_folder(name: str, root: Path) -> None:
    if root.is_dir():
        return
    if root.exists():
        raise DataError(f"data folder '{name}' is a file; expected a folder of images.")
    raise DataError(
        f"data folder '{name}' does not exist (looked for {root.absolute()}). "
        "Relative paths start at the recipe's own folder."
    )


def _sorted(root: Path, caption_extensions: list[str], *, recursive: bool) -> Listing:
    listing = Listing(root=root)
    captions: dict[str, dict[str, str]] = {end: {} for end in caption_extensions}
    for relative in sorted(_walk(root, "", listing, {os.path.realpath(root)}, recursive=recursive)):
        lowered = relative.lower()
        if lowered[lowered.rfind(".") :] in EXTENSIONS:
            listing.images.append(relative)
            continue
        for end, of_one_extension in captions.items():
            if lowered.endswith(end):
                of_one_extension.setdefault(composed(relative[: -len(end)]), relative)
                break
        else:
            suffix = posixpath.splitext(lowered)[1]
            listing.other[suffix or "no extension"] += 1
            if suffix in (".txt", ".caption", ".cap"):
                listing.stray.setdefault(stem_of(relative), relative)
    for of_one_extension in reversed(captions.values()):
        listing.captions |= of_one_extension
    return listing


def _extensions(section: FolderData) -> list[str]:
    given = section.caption_extension
    return [end.lower() for end in ([given] if isinstance(given, str) else given)]


def _walk(folder: Path, prefix: str, listing: Listing, seen: set[str], *, recursive: bool) -> Iterator[str]:
    """Relative paths of all visible files; each real folder is entered once, so links cannot loop."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"data folder '{folder}' cannot be read: {error.strerror or error}.") from error
    folders = []
    for entry in entries:
        name = entry.name
        if name[0] == ".":
            listing.hidden += 1
        elif is_folder(entry):
            folders.append(name)
        else:
            yield prefix + name
    listing.subfolders += len(folders)
    for name in sorted(folders) if recursive else ():
        real = os.path.realpath(folder / name)
        if real not in seen:
            seen.add(real)
            yield from _walk(folder / name, f"{prefix}{name}/", listing, seen, recursive=True)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or leads to one; never raises."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: told when it is read as a file
        return False


def _why_empty(section: FolderData, listing: Listing) -> str:
    """What was found instead of images, and what to do."""
    name = section.folder
    if listing.subfolders and not section.recursive:
        below = _sorted(listing.root, _extensions(section), recursive=True)
        if below.images:
            return (
                f"data folder '{name}' has no images of its own, but {len(below.images)} in "
                f"{counted(below.subfolders, 'sub-folder')}. Set recursive = true, or name one of them."
            )
    if listing.captions:
        return (
            f"data folder '{name}' holds {counted(len(listing.captions), 'caption file')} but no images. "
            f"Put the images ({KINDS}) beside their captions."
        )
    if listing.other:
        kinds = ", ".join(f"{count} {kind}" for kind, count in listing.other.most_common(5))
        return (
            f"data folder '{name}' holds no images that are read ({KINDS}); found {kinds}. "
            "Convert them to png or jpg."
        )
    return f"data folder '{name}' is empty. Put images ({KINDS}) into it."
