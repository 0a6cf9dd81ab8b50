"""What a user should hear about a scanned source: captions that are missing, twins, animations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from velatura.data.items import Item, some
from velatura.plural import agreeing, counted
from velatura.recipe.data.items import SourceData

USED = {"mask"}  # roles that objectives read
READ = ("is not UTF-8 and was", "are not UTF-8 and were")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An item, and how it was found."""

    item: Item
    frames: int


def remarks(source: str, section: SourceData, found: Sequence[Found]) -> Iterator[str]:
    """One sentence per subject, each with a count and a few names."""
    yield from _about_captions(source, section, found)
    yield from _about_companions(source, found)
    yield from _about_images(found)


def _about_captions(source: str, section: SourceData, found: Sequence[Found]) -> Iterator[str]:
    captions = [(entry.item.name, entry.item.caption) for entry in found]
    without = [name for name, caption in captions if not caption.text and not caption.tags]
    if without:
        instead = f"only the word '{section.trigger}'" if section.trigger else "an empty caption"
        have = agreeing(len(without), "has", "have")
        yield f"{len(without)} of {counted(len(found), 'image')} in '{source}' {have} {instead}: {some(without)}."
    if section.caption_lines == "first" and not section.wildcards:
        cut = [name for name, caption in captions if "\n" in caption.text]
        if cut:
            have = agreeing(len(cut), "has", "have")
            yield (
                f"{counted(len(cut), 'caption')} in '{source}' {have} several lines and only the first is used: "
                f"{some(cut)}."
            )
    guessed = [name for name, caption in captions if caption.origin == "guessed"]
    if guessed:
        yield (
            f"{counted(len(guessed), 'caption')} in '{source}' {agreeing(len(guessed), *READ)} read as "
            f"Western European text (Windows-1252): {some(guessed)}. Save as UTF-8 if letters are wrong."
        )


def _about_companions(source: str, found: Sequence[Found]) -> Iterator[str]:
    roles = {role: None for entry in found for role in entry.item.companions if role not in USED}
    if roles:
        yield (
            f"companions of '{source}' that no objective reads yet: {' and '.join(roles)}. They are checked and put "
            "into batches, and have no effect on what is learned."
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
