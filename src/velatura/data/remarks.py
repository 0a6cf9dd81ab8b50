"""What a user should hear about a scanned source: captions that are missing, twins, animations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from velatura.data.items import Item, some
from velatura.recipe.data.items import SourceData


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An item, and how it was found."""

    item: Item
    frames: int


def remarks(source: str, section: SourceData, found: Sequence[Found]) -> Iterator[str]:
    """One sentence per subject, each with a count and a few names."""
    yield from _about_captions(source, section, found)
    yield from _about_images(found)


def _about_captions(source: str, section: SourceData, found: Sequence[Found]) -> Iterator[str]:
    captions = [(entry.item.name, entry.item.caption) for entry in found]
    without = [name for name, caption in captions if not caption.text and not caption.tags]
    if without:
        instead = f"only the word '{section.trigger}'" if section.trigger else "an empty caption"
        yield f"{len(without)} of {len(found)} images in '{source}' have {instead}: {some(without)}."
    if section.caption_lines == "first" and not section.wildcards:
        cut = [name for name, caption in captions if "\n" in caption.text]
        if cut:
            yield f"{len(cut)} captions in '{source}' have several lines and only the first is used: {some(cut)}."
    guessed = [name for name, caption in captions if caption.origin == "guessed"]
    if guessed:
        yield (
            f"{len(guessed)} captions in '{source}' are not UTF-8 and were read as Western European "
            f"text (Windows-1252): those of {some(guessed)}. Save them as UTF-8 if letters are wrong."
        )


def _about_images(found: Sequence[Found]) -> Iterator[str]:
    animated = [entry.item.name for entry in found if entry.frames > 1]
    if animated:
        yield f"{len(animated)} images are animated; only the first frame is used: {some(animated)}."
    by_content: dict[str, list[str]] = {}
    for entry in found:
        by_content.setdefault(entry.item.content, []).append(entry.item.name)
    twins = [" = ".join(names) for names in by_content.values() if len(names) > 1]
    if twins:
        yield f"{len(twins)} images are there more than once: {some(twins, 3)}."
