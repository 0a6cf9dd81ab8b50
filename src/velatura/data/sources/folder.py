"""`[[data]] folder = …`: images with captions beside them, and folders of companions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from velatura.data.items import Role, some
from velatura.data.places import FilePlace
from velatura.data.sources.listing import Listing, list_companions, list_folder, names_below
from velatura.data.sources.pairs import Pairs, match_pattern, pair, stem_of
from velatura.data.sources.record import Names, Reading, Record
from velatura.data.text.captions import Caption, caption_from_name
from velatura.errors import DataError
from velatura.plural import agreeing, counted
from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.paths import split_pattern

_NONE = Caption()


@dataclass(frozen=True, kw_only=True)
class _Companions:
    """The files of one role: where they are, and the image's path that each stands for."""

    root: Path
    stands_for: Mapping[str, str]


def read_folder(section: FolderData, base: Path) -> Reading:
    """The images of a folder.

    Images without a companion of the same name, or with more than one, are unusable. Raises DataError when the folder,
    or a folder of companions, is missing or empty.
    """
    listing = list_folder(section, base)
    companions = {role: _companions(name, section, base) for role, name in companion_folders(section).items()}
    images = without_companions(section, listing, base)
    pairs = {role: pair(images, one.stands_for, role) for role, one in companions.items()}
    stems = [stem_of(image) for image in images]
    records, unusable = [], []
    root, shown = f"{listing.root}/", f"{section.folder.rstrip('/')}/"
    for relative, stem in zip(images, stems, strict=True):
        name = shown + relative
        if reasons := [found.reasons[relative] for found in pairs.values() if relative in found.reasons]:
            unusable.append((name, " and ".join(reasons)))
            continue
        beside = listing.captions.get(stem)
        records.append(
            Record(
                name=name,
                image=FilePlace(root + relative),
                caption=_caption(section, relative) if beside is None else _NONE,
                caption_place=None if beside is None else FilePlace(root + beside),
                companions={
                    role: FilePlace(f"{companions[role].root}/{found.found[relative]}")
                    for role, found in pairs.items()
                },
            )
        )
    return Reading(
        source=section.folder,
        root=listing.root,
        records=records,
        unusable=tuple(unusable),
        notices=tuple(_remarks(section, listing, Counter(stems), pairs)),
    )


def names_of_folder(section: FolderData, base: Path) -> Names:
    """The names in a table's folders. Raises DataError where one is missing."""
    companions = [split_pattern(text)[0] for text in companion_folders(section).values()]
    found = [names_below(name, base, recursive=section.recursive) for name in (section.folder, *companions)]
    return Names(root=base / Path(section.folder).expanduser(), names=list(chain.from_iterable(found)))


def _caption(section: FolderData, relative: str) -> Caption:
    """Where there is no file: the recipe's caption, else the file's name, else none."""
    if section.caption is not None:
        return Caption(text=section.caption, origin="recipe")
    return caption_from_name(relative) if section.caption_from_name else _NONE


def companion_folders(section: FolderData) -> dict[Role, str]:
    """The folders of companions that a table names, by role; each may end in a pattern."""
    given: dict[Role, str | None] = {
        "reference": section.references,
        "control": section.controls,
        "mask": section.masks,
        "depth": section.depths,
        "normals": section.normals,
    }
    return {role: folder for role, folder in given.items() if folder is not None}


def _companions(text: str, section: FolderData, base: Path) -> _Companions:
    """The files of a folder of companions; with a pattern, those that fit it."""
    folder, pattern = split_pattern(text)
    root, files = list_companions(folder, base, recursive=section.recursive)
    if not pattern:
        return _Companions(root=root, stands_for={path: path for path in files})
    fitting = {path: image for path in files if (image := match_pattern(path, pattern)) is not None}
    if not fitting:
        raise DataError(f"no file in '{folder}' fits '{pattern}', where * stands for an image's name.")
    return _Companions(root=root, stands_for=fitting)


def without_companions(section: FolderData, listing: Listing, base: Path) -> list[str]:
    """The images that are not companions of others by where they lie; raises DataError when all are."""
    top = listing.root.resolve()
    taken: set[str] = set()
    for text in companion_folders(section).values():
        folder, pattern = split_pattern(text)
        root = (base / Path(folder).expanduser()).resolve()
        if root.is_relative_to(top):
            inside = root.relative_to(top).as_posix()
            taken.update(image for image in listing.images if _lies_in(image, inside, pattern))
    images = [image for image in listing.images if image not in taken]
    if not images:
        raise DataError(
            f"all images in '{section.folder}' are companions: name another folder for them, or a pattern for their "
            "names such as '*_mask', where * stands for an image's name."
        )
    return images


def _lies_in(image: str, folder: str, pattern: str) -> bool:
    relative = image if folder == "." else image.removeprefix(f"{folder}/")
    if folder != "." and relative == image:
        return False
    return not pattern or match_pattern(relative, pattern) is not None


def _remarks(
    section: FolderData, listing: Listing, stems: Mapping[str, int], pairs: Mapping[Role, Pairs]
) -> Iterator[str]:
    stray = sum(1 for stem in listing.stray if stem in stems and stem not in listing.captions)
    if stray:
        yield (
            f"{counted(stray, 'text file')} of another extension in '{section.folder}' "
            f"{agreeing(stray, 'was', 'were')} not read: set caption_extension."
        )
    orphans = sorted(name for stem, name in listing.captions.items() if stem not in stems)
    if orphans:
        have = agreeing(len(orphans), "has", "have")
        yield f"{counted(len(orphans), 'caption file')} in '{section.folder}' {have} no image: {some(orphans)}."
    shared = sorted(
        listing.captions[stem] for stem, count in stems.items() if count > 1 and stem in listing.captions
    )
    if shared:
        belong = agreeing(len(shared), "is that of several images", "are those of several images each")
        yield f"{counted(len(shared), 'caption file')} in '{section.folder}' {belong}: {some(shared)}."
    for role, found in pairs.items():
        if found.alone:
            alone = counted(len(found.alone), f"{role} image")
            belong = agreeing(len(found.alone), "belongs", "belong")
            yield f"{alone} {belong} to no image in '{section.folder}': {some(found.alone)}."
    if listing.hidden:
        hidden = counted(listing.hidden, "hidden file or folder", "hidden files or folders")
        were = agreeing(listing.hidden, "was", "were")
        yield f"{hidden} in '{section.folder}' {were} left out."
