"""What a scan finds: items, and what it had to leave aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from velatura.errors import DataError
from velatura.wording import counted

Background = Literal["white", "black", "grey"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One image with its caption."""

    name: str  # path as the recipe's author would write it, for messages
    path: Path
    caption: str  # complete, the trigger word included
    width: int  # pixels, as displayed (after EXIF rotation)
    height: int
    content: str  # blake2b of the file's bytes, 32 hex digits
    source: int  # index of the `[[data]]` table
    weight: float = 1.0  # of the loss
    repeats: int = 1  # uses per epoch
    flip: float = 0.0  # probability of a horizontal flip
    background: Background = "white"  # what shows through transparency


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A file that looked like an image and cannot be used."""

    name: str
    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Scan:
    """All items in order of source and name, the files left aside, and what was remarked on the way."""

    items: tuple[Item, ...]
    quarantined: tuple[Quarantined, ...] = ()
    notices: tuple[str, ...] = ()

    @staticmethod
    def join(scans: Sequence[Scan]) -> Scan:
        """Several sources as one."""
        return Scan(
            items=tuple(item for scan in scans for item in scan.items),
            quarantined=tuple(bad for scan in scans for bad in scan.quarantined),
            notices=tuple(notice for scan in scans for notice in scan.notices),
        )


def check_bad_share(folder: str, bad: Sequence[Quarantined], total: int, max_bad: float) -> None:
    """Raise DataError when more than `max_bad` (a share) of `total` images cannot be used, or all of them."""
    if not bad or (len(bad) < total and len(bad) <= max_bad * total):
        return
    shown = "\n".join(f"  {entry}" for entry in bad[:10])
    more = f"\n  … and {len(bad) - 10} more" if len(bad) > 10 else ""
    raise DataError(
        f"{len(bad)} of {counted(total, 'image')} in '{folder}' cannot be used; max_bad allows {max_bad:.0%}.\n"
        f"{shown}{more}\nRepair or remove them, or raise max_bad for this [[data]] table."
    )


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few names, and how many more there are: for messages."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
