"""`[[data]] folder = …`: images with captions beside them, and folders of companions."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from velatura.data.captions import Caption, caption_from_name
from velatura.data.images import EXTENSIONS
from velatura.data.items import Role, some
from velatura.data.places import FilePlace, Place
from velatura.data.sources.record import Reading, Record
from velatura.errors import DataError
from velatura.recipe.data.sources.folder import FolderData

KINDS = "png, jpg, jpeg, webp, bmp, tif, tiff, gif, avif"
_COMPANION_EXTENSIONS = EXTENSIONS | {".npy"}


def read_folder(section: FolderData, base: Path) -> Reading:
    """The images of a folder. Raises DataError when it, or a folder of companions, is missing or empty."""
    listing = list_folder(section, base)
    companions = {role: _by_stem(name, base) for role, name in _companion_folders(section).items()}
    records, unusable = [], []
    for relative in listing.images:
        stem, name = stem_of(relative), f"{section.folder.rstrip('/')}/{relative}"
        missing = [role for role, places in companions.items() if stem not in places]
        if missing:
            unusable.append((name, f"has no {' and no '.join(missing)} image of the same name"))
            continue
        beside = listing.captions.get(stem)
        records.append(
            Record(
                name=name,
                image=FilePlace(f"{listing.root}/{relative}"),
                caption=_caption(section, relative),
                caption_place=None if beside is None else FilePlace(f"{listing.root}/{beside}"),
                companions={role: places[stem] for role, places in companions.items()},
            )
        )
    return Reading(
        source=section.folder,
        root=listing.root,
        records=records,
        unusable=tuple(unusable),
        notices=tuple(_remarks(section, listing, companions)),
    )


def _caption(section: FolderData, relative: str) -> Caption:
    """Where there is no file: the recipe's caption, else the file's name, else none."""
    if section.caption is not None:
        return Caption(text=section.caption, origin="recipe")
    return caption_from_name(relative) if section.caption_from_name else Caption()


def _companion_folders(section: FolderData) -> dict[Role, str]:
    given: dict[Role, str | None] = {
        "reference": section.references,
        "control": section.controls,
        "mask": section.masks,
        "depth": section.depths,
        "normals": section.normals,
    }
    return {role: folder for role, folder in given.items() if folder is not None}


def _by_stem(name: str, base: Path) -> dict[str, Place]:
    """The files of a folder of companions, by path without extension, sub-folders included."""
    root = base / Path(name).expanduser()
    _check_is_folder(name, root)
    listing = Listing(root=root)
    found: dict[str, Place] = {}
    for relative in sorted(_walk(root, "", listing, {os.path.realpath(root)}, recursive=True)):
        if posixpath.splitext(relative)[1].lower() in _COMPANION_EXTENSIONS:
            found.setdefault(stem_of(relative), FilePlace(f"{root}/{relative}"))
    return found


def _remarks(
    section: FolderData, listing: Listing, companions: Mapping[Role, Mapping[str, Place]]
) -> Iterator[str]:
    stems = {stem_of(image) for image in listing.images}
    stray = sum(1 for stem in stems if stem in listing.stray and stem not in listing.captions)
    if stray:
        yield (
            f"{stray} text files of another extension in '{section.folder}' were not read: set caption_extension."
        )
    orphans = sorted(name for stem, name in listing.captions.items() if stem not in stems)
    if orphans:
        yield f"{len(orphans)} caption files in '{section.folder}' have no image: {some(orphans)}."
    for role, places in companions.items():
        alone = sorted(stem for stem in places if stem not in stems)
        if alone:
            yield f"{len(alone)} {role} images belong to no image in '{section.folder}': {some(alone)}."
    if listing.hidden:
        yield f"{listing.hidden} hidden files or folders in '{section.folder}' were left out."


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


def stem_of(relative: str) -> str:
    """A file's path without its extension: what an image and its caption share."""
    return posixpath.splitext(relative)[0]


def list_folder(section: FolderData, base: Path) -> Listing:
    """List a source's folder; raises DataError when it is missing or holds no image."""
    root = base / Path(section.folder).expanduser()
    _check_is_folder(section.folder, root)
    listing = _sorted(root, _extensions(section), recursive=section.recursive)
    if not listing.images:
        raise DataError(_why_empty(section, listing))
    return listing


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
    captions: list[dict[str, str]] = [{} for _ in caption_extensions]
    for relative in sorted(_walk(root, "", listing, {os.path.realpath(root)}, recursive=recursive)):
        suffix = posixpath.splitext(relative)[1].lower()
        rank = next((i for i, end in enumerate(caption_extensions) if relative.lower().endswith(end)), None)
        if suffix in EXTENSIONS:
            listing.images.append(relative)
        elif rank is not None:
            captions[rank].setdefault(relative[: -len(caption_extensions[rank])], relative)
        else:
            listing.other[suffix or "no extension"] += 1
            if suffix in (".txt", ".caption", ".cap"):
                listing.stray.setdefault(stem_of(relative), relative)
    for of_one_extension in reversed(captions):
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
    for entry in sorted(entries, key=lambda found: found.name):
        if entry.name.startswith("."):
            listing.hidden += 1
        elif not entry.is_dir():
            yield prefix + entry.name
        else:
            listing.subfolders += 1
            real = os.path.realpath(entry.path)
            if recursive and real not in seen:
                seen.add(real)
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", listing, seen, recursive=True)


def _why_empty(section: FolderData, listing: Listing) -> str:
    """What was found instead of images, and what to do."""
    name = section.folder
    if listing.subfolders and not section.recursive:
        below = _sorted(listing.root, _extensions(section), recursive=True)
        if below.images:
            return (
                f"data folder '{name}' has no images of its own, but {len(below.images)} in "
                f"{below.subfolders} sub-folders. Set recursive = true, or name one of them."
            )
    if listing.captions:
        return (
            f"data folder '{name}' holds {len(listing.captions)} caption files but no images. "
            f"Put the images ({KINDS}) beside their captions."
        )
    if listing.other:
        kinds = ", ".join(f"{count} {kind}" for kind, count in listing.other.most_common(5))
        return (
            f"data folder '{name}' holds no images that are read ({KINDS}); found {kinds}. "
            "Convert them to png or jpg."
        )
    return f"data folder '{name}' is empty. Put images ({KINDS}) into it."
