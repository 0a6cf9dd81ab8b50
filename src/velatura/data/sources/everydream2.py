"""`[[data]] kind = "everydream2"`: trees and manifests of EveryDream2trainer."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from velatura.data.items import some
from velatura.data.scanning.listings import Open
from velatura.data.sources.everydream2_config import from_text
from velatura.data.sources.everydream2_manifest import read_manifest
from velatura.data.sources.everydream2_tree import IMAGES, Described, Findings, read_tree
from velatura.data.sources.lookup import Lookup
from velatura.data.sources.record import Expansion, Reading, Record
from velatura.data.text.captions import Caption
from velatura.data.text.wording import Wording
from velatura.errors import DataError
from velatura.plural import agreeing, counted
from velatura.recipe.data.sources.everydream2 import EveryDream2Data


def expand_everydream2(section: EveryDream2Data, base: Path) -> Expansion:
    """One table for each of the roots."""
    roots = [section.root] if isinstance(section.root, str) else section.root
    return Expansion(sections=[section.model_copy(update={"root": root}) for root in roots])


def read_everydream2(section: EveryDream2Data, base: Path, listings: Open) -> Reading:
    """The images of one root. Raises DataError when it is missing, empty, or a file of a folder is wrong."""
    assert isinstance(section.root, str), "a list of roots was expanded"
    name, root = section.root, base / Path(section.root).expanduser()
    if root.is_dir():
        with listings(root) as known:
            found = read_tree(root, name, known)
    elif root.is_file() and root.suffix.lower() == ".json":
        found = read_manifest(root, name, _lookup(section, base))
    else:
        what = "is neither a folder nor a .json manifest" if root.exists() else "does not exist"
        raise DataError(f"root '{name}' {what} (looked at {root.absolute()}).")
    used = [image for image in found.images if image.config.multiply != 0]
    if not used and not found.unusable:
        raise DataError(_why_empty(name, found))
    plain = Wording.of(section)
    return Reading(
        source=name,
        root=root,
        records=[_record(image, section, plain) for image in used],
        unusable=tuple(found.unusable),
        notices=tuple(_remarks(name, found)),
    )


def _lookup(section: EveryDream2Data, base: Path) -> Lookup:
    """Relative paths in a manifest start beside it; EveryDream2's start at the working folder."""
    assert isinstance(section.root, str)
    start = "." if section.compat == "everydream2" else posixpath.dirname(section.root) or "."
    return Lookup([start], Path() if section.compat == "everydream2" else base, outside=section.outside)


def _record(image: Described, section: EveryDream2Data, wording: Wording) -> Record:
    """What files say counts instead of the table's keys; uses and loss weights are multiplied with them."""
    config = image.config
    caption = _caption(image)
    own: dict[str, Any] = {}
    if config.multiply is not None:
        own["repeats"] = section.repeats * config.multiply
    if config.loss_scale is not None:
        own["weight"] = section.weight * config.loss_scale
    if config.flip_p is not None:
        own["flip"] = config.flip_p
    if config.rating is not None:
        own["rating"] = config.rating
    if config.batch_id:
        own["group"] = config.batch_id
    dropout = wording.dropout if config.cond_dropout is None else config.cond_dropout
    shuffle = wording.shuffle if config.shuffle_tags is None else config.shuffle_tags
    worded = replace(wording, dropout=dropout, shuffle=shuffle)
    if not caption.tags:  # a main prompt is no list of tags, whatever commas are in it
        worded = replace(worded, shuffle=False, tag_dropout=0.0, warmup_steps=0)
    if worded != wording:
        own["wording"] = worded
    return Record(name=image.name, image=image.place, caption=caption, own=own)


def _caption(image: Described) -> Caption:
    """The first main prompt and all tags; without a main prompt, what the file's name says up to its first `_`."""
    config, origin = image.config, image.origin
    if not config.main_prompts:
        stem = Path(image.place.path).stem
        config, origin = from_text(stem.split("_", 1)[0]).over(config), "name"
    text = config.main_prompts[0] if config.main_prompts else ""
    return Caption(text=text, origin=origin, tags=config.tags, max_length=config.max_caption_length)


def _remarks(name: str, found: Findings) -> Iterator[str]:
    several = [image.name for image in found.images if len(image.config.main_prompts) > 1]
    if several:
        have = counted(len(several), "image has", "images have")
        yield f"{have} more than one main prompt; the first one is used: {some(several)}."
    unused = [image.name for image in found.images if image.config.multiply == 0]
    if unused:
        have, are = counted(len(unused), "image has", "images have"), agreeing(len(unused), "is", "are")
        yield f"{have} multiply 0 and {are} not used: {some(unused)}."
    for key, files in found.unknown.items():
        yield f"the key '{key}' is not known and was not read, in {counted(len(files), 'file')}: {some(files)}."
    if found.packed:
        number = len(found.packed)
        are, them = agreeing(number, "is", "are"), agreeing(number, "it", "them")
        yield (
            f"{counted(number, 'zip file')} in '{name}' {are} left packed, and images in {them} are not used: "
            f"{some(found.packed)}. Unpack {them}."
        )
    if found.orphans:
        have = agreeing(len(found.orphans), "has", "have")
        yield f"{counted(len(found.orphans), 'caption file')} in '{name}' {have} no image: {some(found.orphans)}."
    if found.hidden:
        hidden = counted(found.hidden, "hidden file or folder", "hidden files or folders")
        yield f"{hidden} in '{name}' {agreeing(found.hidden, 'was', 'were')} left out."


def _why_empty(name: str, found: Findings) -> str:
    if found.images:
        return f"every image in '{name}' has multiply 0. Raise it for those to be used."
    kinds = ", ".join(sorted(ending.removeprefix(".") for ending in IMAGES))
    packed = f" Unpack {some(found.packed)} first." if found.packed else ""
    return f"'{name}' and its sub-folders hold no images that are read ({kinds}).{packed}"
