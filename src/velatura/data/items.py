"""What a scan finds: items, and what it had to leave aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from velatura.data.places import Place
from velatura.data.text.captions import Caption
from velatura.data.text.wording import Wording
from velatura.errors import DataError
from velatura.plural import counted
from velatura.recipe.data.items import SourceData

Background = Literal["white", "black", "grey"]
Filter = Literal["auto", "area", "box", "bilinear", "bicubic", "lanczos", "nearest"]
Role = Literal["reference", "control", "mask", "depth", "normals"]
Identity = tuple[object, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Treatment:
    """What is done to an item at each use. The items of a source share one, unless a file of theirs says otherwise."""

    repeats: float = 1  # uses per epoch
    weight: float = 1.0  # of the loss
    regularisation: bool = False  # used as often as all that is not, together
    rating: float = 1.0  # of a rated dataset: how likely it is still used late in training
    group: str = ""  # items of one group share batches with each other only
    flip: float = 0.0  # probability of a horizontal flip
    background: Background = "white"  # what shows through transparency
    alpha_mask: bool = False  # transparency is the loss mask
    resize: Filter = "auto"
    random_crop: bool = False
    crops: int = 4  # random crops that a cache holds
    cut_as_everydream2: bool = False  # random crops near the centre, with a little jitter
    colour: float = 0.0  # probability of a small change of hue or gamma
    wording: Wording = field(default_factory=Wording)

    @classmethod
    def of(cls, section: SourceData) -> Treatment:
        """What a `[[data]]` table says."""
        return cls(
            repeats=section.repeats,
            weight=section.weight,
            regularisation=section.regularisation,
            flip=section.flip,
            background=section.background,
            alpha_mask=section.alpha == "mask",
            resize=section.resize,
            random_crop=section.crop == "random",
            crops=section.crops,
            cut_as_everydream2=section.compat == "everydream2",
            colour=section.colour,
            wording=Wording.of(section),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Companion:
    """An image that belongs to an item: a mask, a depth map, the image before an edit."""

    place: Place
    content: str  # blake2b of its bytes, 32 hex digits
    width: int  # pixels, as displayed
    height: int


@dataclass(kw_only=True, slots=True)
class Item:
    """One image with its caption and its companions; never changed.

    Not frozen: a start makes a hundred thousand of them, and frozen ones take three times as long to make.
    """

    name: str  # path as the recipe's author would write it, for messages
    place: Place
    caption: Caption
    width: int  # pixels, as displayed (after EXIF rotation)
    height: int
    content: str  # blake2b of the file's bytes, 32 hex digits
    source: int  # index of the expanded `[[data]]` table
    treatment: Treatment = field(default_factory=Treatment)
    companions: Mapping[Role, Companion] = field(default_factory=dict)

    @property
    def accompanied(self) -> bool:
        """Whether anything is read beside its pixels: a companion, or its transparency as a mask."""
        return bool(self.companions) or self.treatment.alpha_mask

    @property
    def identity(self) -> Identity:
        """What tells an item from all others, whatever is done to it: a file may be in several tables or rows."""
        return self.source, self.name, self.place.key, self.caption.text, self.caption.tags


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A file that looked like an image and cannot be used."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"

    @property
    def notice(self) -> str:
        """What is said of it while the data is read."""
        return f"left out {self}"


@dataclass(frozen=True, kw_only=True)
class Scan:
    """All items in order of source and name, the files left aside, and what was remarked on the way."""

    sections: tuple[SourceData, ...]  # tables that stand for several were expanded
    items: tuple[Item, ...]
    quarantined: tuple[Quarantined, ...] = ()
    notices: tuple[str, ...] = ()


def check_bad_share(source: str, bad: Sequence[Quarantined], total: int, max_bad: float) -> None:
    """Raise DataError when more than `max_bad` (a share) of `total` images cannot be used, or all of them.

    One bad image is allowed however few there are, unless `max_bad` is 0.
    """
    allowed = max(max_bad * total, 1) if max_bad else 0
    if not bad or (len(bad) < total and len(bad) <= allowed):
        return
    shown = "\n".join(f"  {entry}" for entry in bad[:10])
    more = f"\n  … and {len(bad) - 10} more" if len(bad) > 10 else ""
    if len(bad) == total:
        raise DataError(f"none of {counted(total, 'image')} in '{source}' can be used.\n{shown}{more}")
    raise DataError(
        f"{len(bad)} of {counted(total, 'image')} in '{source}' cannot be used; max_bad allows {max_bad:.0%}.\n"
        f"{shown}{more}\nRepair or remove them, or raise max_bad for this [[data]] table."
    )


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few names, and how many more there are: for messages."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
