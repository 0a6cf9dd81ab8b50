"""Companions of images, matched by name and by nothing else: never by position in a list."""

from __future__ import annotations

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from velatura.data.items import some


def stem_of(relative: str) -> str:
    """A file's path without its extension, what an image and its caption share; composed, as some systems decompose."""
    dot, start = relative.rfind("."), relative.rfind("/") + 1
    # as `splitext`, which takes a third of the time to list a large folder
    return composed(relative[:dot] if dot > start and relative[start:dot].strip(".") else relative)


def composed(name: str) -> str:
    """A name with letters and their accents as one character."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def match_pattern(relative: str, pattern: str) -> str | None:
    """The path of the image that a file belongs to, by a pattern like `*_mask` or `*_mask.png`; None: it fits none.

    Without an extension of its own, the pattern fits files of all extensions, and the result keeps the file's.
    """
    folder, name = posixpath.split(relative)
    before, after = pattern.split("*", 1)
    stem, extension = posixpath.splitext(name)
    text = name if posixpath.splitext(after)[1] else stem
    if not (text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after)):
        return None
    return posixpath.join(folder, text[len(before) : len(text) - len(after)] + extension)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which file belongs to which image."""

    found: Mapping[str, str]  # image -> its companion
    reasons: Mapping[str, str]  # image -> why it has none
    alone: Sequence[str] = field(default=())  # files that belong to no image


def pair(images: Iterable[str], files: Mapping[str, str], what: str) -> Pairs:
    """Match images with files of the same name.

    `files`: by path, the image's name that each stands for (the path itself, unless a pattern says otherwise). The
    whole name counts first, extension included; else the name without it, where one image and one file have it.
    """
    images = list(images)
    named = set(images)
    exact = {stands_for: path for path, stands_for in files.items() if stands_for in named}
    rest_images: dict[str, list[str]] = defaultdict(list)
    rest_files: dict[str, list[str]] = defaultdict(list)
    for image in images:
        if image not in exact:
            rest_images[stem_of(image)].append(image)
    for path, stands_for in files.items():
        if stands_for not in named:
            rest_files[stem_of(stands_for)].append(path)
    found = dict(exact)
    reasons: dict[str, str] = {}
    for stem, those in rest_images.items():
        candidates = sorted(rest_files.get(stem, ()))
        if len(those) == len(candidates) == 1:
            found[those[0]] = candidates[0]
        elif candidates:
            reasons |= dict.fromkeys(
                those, f"{_several(those, 'image')} and {_several(candidates, what)} share a name"
            )
        else:
            reasons |= dict.fromkeys(those, f"has no {what} image of the same name")
    stems = {stem_of(image) for image in images}
    alone = sorted(path for stem, paths in rest_files.items() if stem not in stems for path in paths)
    return Pairs(found=found, reasons=_with_near_misses(reasons, alone, files), alone=alone)


def _several(paths: Sequence[str], what: str) -> str:
    return f"the {what} {paths[0]}" if len(paths) == 1 else f"{len(paths)} {what} files ({some(paths, 3)})"


def _with_near_misses(
    reasons: Mapping[str, str], alone: Sequence[str], files: Mapping[str, str]
) -> dict[str, str]:
    """Reasons that also name a file whose name differs in nothing but its case."""
    by_case = {stem_of(files[path]).casefold(): path for path in alone}
    near = {image: by_case.get(stem_of(image).casefold()) for image in reasons}
    return {
        image: f"{reason} (there is {near[image]}: upper and lower case differ)" if near[image] else reason
        for image, reason in reasons.items()
    }
