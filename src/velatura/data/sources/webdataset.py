"""`[[data]] kind = "webdataset"`: tar shards, read in place; members of one name up to its first dot are a sample."""

from __future__ import annotations

from pathlib import Path

from velatura.data.items import Role, some
from velatura.data.scanning.listings import Open
from velatura.data.sources.record import Reading
from velatura.data.sources.samples import Samples, Wanted
from velatura.data.sources.shard_files import shard_files
from velatura.data.sources.tar_listing import TarListing, list_tar
from velatura.errors import DataError
from velatura.plural import counted
from velatura.recipe.data.sources.webdataset import WebDatasetData


def read_webdataset(section: WebDatasetData, base: Path, listings: Open) -> Reading:
    """The samples of all shards, in order. A shard is gone through once; a later reading has its listing.

    Raises DataError for shards that are missing or compressed, and where there is no picture. Of a shard that is cut
    off, what is whole is used, and what is not is unusable.
    """
    found = Samples(wanted=_wanted(section))
    refused: list[str] = []
    root = base / Path(section.shards).expanduser()
    with listings(root) as known:
        for name, path in shard_files(section.shards, base):
            try:
                listing = TarListing(**known.of(path, lambda path: vars(list_tar(path))))
            except OSError as error:
                found.unusable.append((name, f"cannot be read: {error.strerror or error}"))
                continue
            refused += [f"{name}/{member}" for member in listing.refused]
            found.unusable += [
                (f"{name}/{member}".rstrip("/"), why) for member, why in listing.damage.items()
            ]
            found.add(listing.members, name, path)
    if not found.records and not found.unusable:
        raise DataError(_why_empty(section, found))
    notices = list(found.remarks(section.shards))
    if refused:
        are = counted(len(refused), "member is", "members are")
        notices.append(
            f"{are} no plain file or named so as to lie outside the shard, and left alone: {some(refused)}."
        )
    return Reading(
        source=section.shards,
        root=root,
        records=found.records,
        unusable=tuple(found.unusable),
        notices=tuple(notices),
    )


def _wanted(section: WebDatasetData) -> Wanted:
    endings = section.caption_extension
    companions: dict[Role, str | None] = {
        "reference": section.reference_member,
        "control": section.control_member,
        "mask": section.mask_member,
        "depth": section.depth_member,
        "normals": section.normals_member,
    }
    return Wanted(
        image=section.image_member,
        captions=[
            end.lower().removeprefix(".") for end in ([endings] if isinstance(endings, str) else endings)
        ],
        caption_key=section.caption_key,
        companions={role: word for role, word in companions.items() if word is not None},
    )


def _why_empty(section: WebDatasetData, found: Samples) -> str:
    what = f"{section.image_member}.jpg" if section.image_member else "jpg"
    has = f"; a sample such as {found.without[0]} has none" if found.without else ""
    return f"'{section.shards}' has no pictures: members that end in .{what}, .png and so on{has}. See image_member."
