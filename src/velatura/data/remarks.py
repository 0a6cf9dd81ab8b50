"""What a user should hear about a scanned folder: captions that are missing, twins, animations, orphans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from velatura.data.captions import Caption
from velatura.data.folder import Listing, stem_of
from velatura.data.items import Item, some
from velatura.recipe.data.folder import FolderData
from velatura.wording import agreeing, counted

READ = ("is not UTF-8 and was", "are not UTF-8 and were")
STRAY = ("text file of another extension was", "text files of another extension were")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An item, and how it was found."""

    item: Item
    caption: Caption
    frames: int


def remarks(section: FolderData, listing: Listing, found: Sequence[Found]) -> Iterator[str]:
    """One sentence per subject, each with a count and a few names."""
    yield from _about_captions(section, listing, found)
    yield from _about_images(found)
    yield from _about_other_files(section, listing)


def _about_captions(section: FolderData, listing: Listing, found: Sequence[Found]) -> Iterator[str]:
    without = [entry.item.name for entry in found if not entry.caption.text]
    if without:
        instead = f"only the word '{section.trigger}'" if section.trigger else "an empty caption"
        stray = sum(1 for image in listing.images if stem_of(image) in listing.stray)
        hint = f" {counted(stray, *STRAY)} not read: set caption_extension." if stray else ""
        count = f"{len(without)} of {counted(len(found), 'image')}"
        have = agreeing(len(without), "has", "have")
        yield f"{count} in '{section.folder}' {have} {instead}: {some(without)}.{hint}"
    guessed = [entry.item.name for entry in found if entry.caption.origin == "guessed"]
    if guessed:
        yield (
            f"{counted(len(guessed), 'caption')} in '{section.folder}' {agreeing(len(guessed), *READ)} read as "
            f"Western European text (Windows-1252): {some(guessed)}. Save as UTF-8 if letters are wrong."
        )


def _about_images(found: Sequence[Found]) -> Iterator[str]:
    animated = [entry.item.name for entry in found if entry.frames > 1]
    if animated:
        count = counted(len(animated), "image is", "images are")
        yield f"{count} animated; only the first frame is used: {some(animated)}."
    by_content: dict[str, list[str]] = {}
    for entry in found:
        by_content.setdefault(entry.item.content, []).append(entry.item.name)
    twins = [" = ".join(names) for names in by_content.values() if len(names) > 1]
    if twins:
        yield f"{counted(len(twins), 'image is', 'images are')} there more than once: {some(twins, 3)}."


def _about_other_files(section: FolderData, listing: Listing) -> Iterator[str]:
    stems = {stem_of(image) for image in listing.images}
    orphans = sorted(name for stem, name in listing.captions.items() if stem not in stems)
    if orphans:
        have = agreeing(len(orphans), "has", "have")
        yield f"{counted(len(orphans), 'caption file')} in '{section.folder}' {have} no image: {some(orphans)}."
    if listing.hidden:
        hidden = counted(listing.hidden, "hidden file or folder was", "hidden files or folders were")
        yield f"{hidden} left out in '{section.folder}'."
