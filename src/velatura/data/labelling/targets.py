"""Which pictures of a source want a caption or a mask, and the files that those go to."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from velatura.data.denials import denial_told
from velatura.data.places import FilePlace
from velatura.data.sources.folder import without_companions
from velatura.data.sources.listing import list_companions, list_folder
from velatura.data.sources.pairs import match_pattern, stem_of
from velatura.data.sources.readers import expand
from velatura.errors import DataError
from velatura.recipe.data.items import SourceData
from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.paths import split_pattern


@dataclass(frozen=True, kw_only=True)
class Target:
    """A picture, and the file that is to be written for it."""

    name: str  # as the recipe's author would write it
    image: FilePlace
    file: Path
    max_pixels: int


@dataclass(kw_only=True)
class Targets:
    """What is to be done, and what is not."""

    todo: list[Target] = field(default_factory=list)
    there: int = 0  # pictures that have theirs
    skipped: list[tuple[str, str]] = field(default_factory=list)  # name and reason
    unnamed: dict[str, str] = field(
        default_factory=dict
    )  # folder -> what its `masks` must be, where it names none


def folders_of(sections: Sequence[SourceData], base: Path) -> list[FolderData]:
    """The folders that the tables of a recipe stand for. Raises DataError for kinds without files beside pictures."""
    expanded = [one for section in sections for one in expand(section, base).sections]
    for section in expanded:
        if not isinstance(section, FolderData):
            raise DataError(
                f'pictures of kind = "{section.kind}" have no files of their own beside them that it would read. '
                "Give the folder of the pictures in place of the recipe."
            )
    return [section for section in expanded if isinstance(section, FolderData)]


@denial_told()
def caption_targets(sections: Sequence[FolderData], base: Path, *, overwrite: bool) -> Targets:
    """Pictures without a caption file; with `overwrite`, all of them. Raises DataError for a folder without any."""
    targets = Targets()
    for section in sections:
        extensions = section.caption_extension
        extension = extensions if isinstance(extensions, str) else extensions[0]
        listing = list_folder(section, base)
        images = without_companions(section, listing, base)
        files = {image: listing.root / f"{stem_of(image)}{extension}" for image in images}
        present = {stem: listing.root / path for stem, path in listing.captions.items()}
        _collect(targets, section, listing.root, files, present, overwrite=overwrite)
    return targets


@denial_told()
def mask_targets(
    sections: Sequence[FolderData], base: Path, *, overwrite: bool, out: str | None = None
) -> Targets:
    """Pictures without a mask where `masks` says, else in `out`, else in a folder named as theirs with `-masks`.

    Raises DataError for a folder without pictures, and for a pattern of masks that are no PNG.
    """
    targets = Targets()
    for section in sections:
        where = section.masks or out or f"{section.folder.rstrip('/')}-masks"
        folder, pattern = split_pattern(where)
        if posixpath.splitext(pattern.partition("*")[2])[1].lower() not in ("", ".png"):
            raise DataError(f"masks = '{where}': masks are written as .png; leave out the extension.")
        listing = list_folder(section, base)
        images = without_companions(section.model_copy(update={"masks": where}), listing, base)
        root = base / Path(folder).expanduser()
        files = {image: root / _named(image, pattern) for image in images}
        present = _masks_in(folder, pattern, base, recursive=section.recursive) if root.is_dir() else {}
        _collect(targets, section, listing.root, files, present, overwrite=overwrite)
        if section.masks is None:
            targets.unnamed[section.folder] = where
    return targets


def _collect(
    targets: Targets,
    section: FolderData,
    root: Path,
    files: Mapping[str, Path],
    present: Mapping[str, Path],
    *,
    overwrite: bool,
) -> None:
    """Sort images into those to do, those that are done, and those that would share a file with another.

    `files` are those to write, by image; `present` are those that are there, by the image's stem.
    """
    taken = {target.file: target.name for target in targets.todo}
    for image, usual in files.items():
        name = f"{section.folder.rstrip('/')}/{image}"
        there = present.get(stem_of(image))
        file = there or usual
        if there is not None and not overwrite:
            targets.there += 1
        elif file in taken:
            targets.skipped.append((name, f"would have the same file as {taken[file]}"))
        elif usual.suffix == ".png" and file.suffix.lower() != ".png":
            targets.skipped.append((name, f"its mask is no PNG, remove it first: {file}"))
        else:
            taken[file] = name
            place = FilePlace(f"{root}/{image}")
            targets.todo.append(Target(name=name, image=place, file=file, max_pixels=section.max_pixels))


def _masks_in(folder: str, pattern: str, base: Path, *, recursive: bool) -> dict[str, Path]:
    """Masks that are there, by the stems of their pictures."""
    root, files = list_companions(folder, base, recursive=recursive)
    stands_for = {path: match_pattern(path, pattern) if pattern else path for path in files}
    return {stem_of(image): root / path for path, image in stands_for.items() if image is not None}


def _named(image: str, pattern: str) -> str:
    """Where the mask of an image goes, relative to the folder of masks."""
    folder, stem = posixpath.split(stem_of(image))
    name = pattern.replace("*", stem, 1) if pattern else stem
    return posixpath.join(folder, name if name.lower().endswith(".png") else f"{name}.png")
