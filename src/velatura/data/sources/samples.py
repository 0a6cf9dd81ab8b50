"""Samples in files that hold many others: members of one name up to its first dot, and what is read of them.

For readers of shards of any format, which tell what lies where in a shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from velatura.data.images import EXTENSIONS
from velatura.data.items import Role, some
from velatura.data.places import JsonTextPlace, PartPlace, Place
from velatura.data.sources.lookup import UnusableError
from velatura.data.sources.record import Record
from velatura.data.sources.table_columns import CAPTIONS
from velatura.plural import agreeing, counted

Member = tuple[str, int, int]  # name, offset and size in its shard
Sample = dict[str, Member]  # by what comes after the first dot of the name


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which members of a sample are read; of images, what stands between the sample's name and the extension."""

    image: str
    captions: Sequence[str]  # endings; the first that is there counts
    caption_key: str | None  # of captions in JSON; by default the usual ones
    companions: Mapping[Role, str]


@dataclass(kw_only=True)
class Samples:
    """What was found in the shards so far."""

    wanted: Wanted
    records: list[Record] = field(default_factory=list)
    unusable: list[tuple[str, str]] = field(default_factory=list)  # name and reason
    without: list[str] = field(default_factory=list)  # samples that have no image
    twice: list[str] = field(default_factory=list)  # members that a later one of their name replaces
    unread: Counter[str] = field(default_factory=Counter)  # members, by ending

    def add(self, members: Iterable[Member], shard: str, path: str) -> None:
        """The samples of one shard; `shard` is what messages call the file at `path`."""
        for sample in self._grouped(members, shard):
            self._add(sample, shard, path)

    def remarks(self, source: str) -> Iterator[str]:
        """What a user should hear of."""
        if self.without:
            have = counted(len(self.without), "sample has", "samples have")
            are = agreeing(len(self.without), "is", "are")
            yield f"{have} no picture and {are} not used, in '{source}': {some(self.without)}."
        if self.twice:
            are = counted(len(self.twice), "member is", "members are")
            yield f"{are} in a shard more than once, and the last one counts: {some(self.twice)}."
        if self.unread:
            kinds = [f"{ending} ({count:,})" for ending, count in self.unread.most_common()]
            yield f"members of '{source}' that are not read: {some(kinds, 12)}."

    def _grouped(self, members: Iterable[Member], shard: str) -> Iterable[Sample]:
        """Members by sample; of two of one name the later one counts, as for all that read tar files."""
        samples: dict[str, Sample] = {}
        for member in members:
            name = member[0]
            start = name.rfind("/") + 1
            dot = name.find(".", start)
            if name[start] == ".":
                self.unread["hidden"] += 1
            elif dot < 0 or dot == len(name) - 1:
                self.unread["no ending"] += 1
            else:
                sample, ending = samples.setdefault(name[:dot], {}), name[dot + 1 :].lower()
                if ending in sample:
                    self.twice.append(f"{shard}/{sample[ending][0]}")
                sample[ending] = member
        return samples.values()

    def _add(self, sample: Sample, shard: str, path: str) -> None:
        name = f"{shard}/{next(iter(sample.values()))[0]}"
        try:
            image = _image(sample, self.wanted.image, EXTENSIONS)
            if image is None:
                self.without.append(name)
                return
            name = f"{shard}/{sample[image][0]}"
            companions = {
                role: _companion(sample, role, what) for role, what in self.wanted.companions.items()
            }
        except UnusableError as error:
            self.unusable.append((name, str(error)))
            return
        caption = next((ending for ending in self.wanted.captions if ending in sample), None)
        self.records.append(
            Record(
                name=name,
                image=PartPlace(path, *sample[image]),
                caption_place=None if caption is None else self._caption(path, sample[caption], caption),
                companions={role: PartPlace(path, *sample[ending]) for role, ending in companions.items()},
            )
        )
        read = {image, caption, *companions.values()}
        self.unread.update(f".{ending}" for ending in sample if ending not in read)

    def _caption(self, path: str, member: Member, ending: str) -> Place:
        place, key = PartPlace(path, *member), self.wanted.caption_key
        keys = CAPTIONS if key is None else (key,)
        return JsonTextPlace(place, keys) if ending.endswith("json") else place


def _image(sample: Sample, what: str, extensions: frozenset[str]) -> str | None:
    """The ending `<what>.jpg` that a sample has, whatever its extension. Raises UnusableError for several."""
    begin = f"{what.lower()}." if what else ""
    endings = [end for end in sample if end.startswith(begin) and f".{end[len(begin) :]}" in extensions]
    if len(endings) > 1:
        raise UnusableError(f"has several images of one name: {some([f'.{ending}' for ending in endings])}")
    return endings[0] if endings else None


def _companion(sample: Sample, role: Role, what: str) -> str:
    ending = _image(sample, what, EXTENSIONS | {".npy"})
    if ending is None:
        end = f"{what.lower()}.png" if what else "png"
        raise UnusableError(f"has no {role} image: a member that ends in '.{end}' or the like")
    return ending
