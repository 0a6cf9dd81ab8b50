"""`[[data]] kind = "webdataset"`: tar shards, read in place; members of one name up to its first dot are a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from velatura.data.images import EXTENSIONS
from velatura.data.items import Role, some
from velatura.data.listings import Open
from velatura.data.places import JsonTextPlace, PartPlace, Place
from velatura.data.sources.lookup import UnusableError
from velatura.data.sources.record import Reading, Record
from velatura.data.sources.shard_files import shard_files
from velatura.data.sources.table_columns import CAPTIONS
from velatura.data.sources.tar_listing import TarListing, list_tar
from velatura.errors import DataError
from velatura.plural import agreeing, counted
from velatura.recipe.data.sources.webdataset import WebDatasetData

Member = tuple[str, int, int]  # name, offset and size in its shard
Sample = dict[str, Member]  # by what comes after the first dot of the name


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What is read of a sample."""

    image: str  # what its ending begins with
    captions: Sequence[str]  # endings; the first that is there counts
    keys: tuple[str, ...]  # of captions in JSON
    companions: Mapping[Role, str]

    @classmethod
    def of(cls, section: WebDatasetData) -> _Wanted:
        given = section.caption_extension
        companions: dict[Role, str | None] = {
            "reference": section.reference_member,
            "control": section.control_member,
            "mask": section.mask_member,
            "depth": section.depth_member,
            "normals": section.normals_member,
        }
        return cls(
            image=_beginning(section.image_member),
            captions=[
                end.lower().removeprefix(".") for end in ([given] if isinstance(given, str) else given)
            ],
            keys=CAPTIONS if section.caption_key is None else (section.caption_key,),
            companions={role: _beginning(word) for role, word in companions.items() if word is not None},
        )


def _beginning(word: str) -> str:
    return f"{word.lower()}." if word else ""


@dataclass(kw_only=True)
class _Findings:
    records: list[Record] = field(default_factory=list)
    unusable: list[tuple[str, str]] = field(default_factory=list)  # name and reason
    without: list[str] = field(default_factory=list)  # samples that have no image
    refused: list[str] = field(default_factory=list)  # members
    twice: list[str] = field(default_factory=list)  # members that a later one of their name replaces
    unread: Counter[str] = field(default_factory=Counter)  # members, by ending


def read_webdataset(section: WebDatasetData, base: Path, listings: Open) -> Reading:
    """The samples of all shards, in order. A shard is gone through once; a later reading has its listing.

    Raises DataError for shards that are missing or compressed, and where there is no picture. Of a shard that is cut
    off, what is whole is used, and what is not is unusable.
    """
    found, wanted = _Findings(), _Wanted.of(section)
    root = base / Path(section.shards).expanduser()
    with listings(root) as known:
        for name, path in shard_files(section.shards, base):
            try:
                listing = TarListing(**known.of(path, lambda path: vars(list_tar(path))))
            except OSError as error:
                found.unusable.append((name, f"cannot be read: {error.strerror or error}"))
                continue
            found.refused += [f"{name}/{member}" for member in listing.refused]
            found.unusable += [
                (f"{name}/{member}".rstrip("/"), why) for member, why in listing.damage.items()
            ]
            for sample in _samples(listing.members, name, found):
                _add(sample, name, path, wanted, found)
    if not found.records and not found.unusable:
        raise DataError(_why_empty(section, found))
    return Reading(
        source=section.shards,
        root=root,
        records=found.records,
        unusable=tuple(found.unusable),
        notices=tuple(_remarks(section.shards, found)),
    )


def _samples(members: Iterable[Member], shard: str, found: _Findings) -> Iterable[Sample]:
    """The members of a shard by sample; of two of one name the later one counts, as for all that read tar files."""
    samples: dict[str, Sample] = {}
    for member in members:
        name = member[0]
        start = name.rfind("/") + 1
        dot = name.find(".", start)
        if name[start] == ".":
            found.unread["hidden"] += 1
        elif dot < 0 or dot == len(name) - 1:
            found.unread["no ending"] += 1
        else:
            sample, ending = samples.setdefault(name[:dot], {}), name[dot + 1 :].lower()
            if ending in sample:
                found.twice.append(f"{shard}/{sample[ending][0]}")
            sample[ending] = member
    return samples.values()


def _add(sample: Sample, shard: str, path: str, wanted: _Wanted, found: _Findings) -> None:
    name = f"{shard}/{next(iter(sample.values()))[0]}"
    try:
        image = _image(sample, wanted.image, EXTENSIONS)
        if image is None:
            found.without.append(name)
            return
        name = f"{shard}/{sample[image][0]}"
        companions = {role: _companion(sample, role, begin) for role, begin in wanted.companions.items()}
    except UnusableError as error:
        found.unusable.append((name, str(error)))
        return
    caption = next((ending for ending in wanted.captions if ending in sample), None)
    found.records.append(
        Record(
            name=name,
            image=PartPlace(path, *sample[image]),
            caption_place=None if caption is None else _caption(path, sample[caption], caption, wanted),
            companions={role: PartPlace(path, *sample[ending]) for role, ending in companions.items()},
        )
    )
    read = {image, caption, *companions.values()}
    found.unread.update(f".{ending}" for ending in sample if ending not in read)


def _image(sample: Sample, begin: str, extensions: frozenset[str]) -> str | None:
    """The ending `<begin>jpg` that a sample has, whatever its extension. Raises UnusableError for several."""
    endings = [end for end in sample if end.startswith(begin) and f".{end[len(begin) :]}" in extensions]
    if len(endings) > 1:
        raise UnusableError(f"has several images of one name: {some([f'.{ending}' for ending in endings])}")
    return endings[0] if endings else None


def _companion(sample: Sample, role: Role, begin: str) -> str:
    ending = _image(sample, begin, EXTENSIONS | {".npy"})
    if ending is None:
        raise UnusableError(f"has no {role} image: a member that ends in '.{begin}png' or the like")
    return ending


def _caption(path: str, member: Member, ending: str, wanted: _Wanted) -> Place:
    place = PartPlace(path, *member)
    return JsonTextPlace(place, wanted.keys) if ending.endswith("json") else place


def _why_empty(section: WebDatasetData, found: _Findings) -> str:
    what = f"{section.image_member}.jpg" if section.image_member else "jpg"
    has = f"; a sample such as {found.without[0]} has none" if found.without else ""
    return f"'{section.shards}' has no pictures: members that end in .{what}, .png and so on{has}. See image_member."


def _remarks(source: str, found: _Findings) -> Iterator[str]:
    if found.without:
        have, are = (
            counted(len(found.without), "sample has", "samples have"),
            agreeing(len(found.without), "is", "are"),
        )
        yield f"{have} no picture and {are} not used, in '{source}': {some(found.without)}."
    if found.twice:
        are = counted(len(found.twice), "member is", "members are")
        yield f"{are} in a shard more than once, and the last one counts: {some(found.twice)}."
    if found.refused:
        are = counted(len(found.refused), "member is", "members are")
        yield f"{are} no plain file or named so as to lie outside the shard, and left alone: {some(found.refused)}."
    if found.unread:
        kinds = [f"{ending} ({count:,})" for ending, count in found.unread.most_common()]
        yield f"members of '{source}' that are not read: {some(kinds, 12)}."
