"""A reader under test, and what running it on one made-up input came to."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from velatura.errors import VelaturaError

from .watch import Broken, watched

LONGEST_MESSAGE = 50_000  # characters
SEED = 1  # of all cases; another one makes other files


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader, and the files that are made up for it.

    sound: files that are read, from which others are made; a reader that refuses all is not tested. make: the bytes of
    a case. read: puts them into the (empty) folder under whatever names, and reads them there.
    refusals: what else than VelaturaError the reader's documentation allows it to raise. reads_anywhere: the case is what
    users say themselves, and they may name any path.
    """

    name: str
    sound: Callable[[], Iterable[bytes]]
    make: Callable[[Random], bytes]
    read: Callable[[bytes, Path], object]
    refusals: tuple[type[Exception], ...] = ()
    reads_anywhere: bool = False

    def case(self, number: int, seed: int = SEED) -> bytes:
        """The bytes of a case: the same on every machine."""
        return self.make(Random(f"{self.name}/{seed}/{number}"))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`refusal`: the error's class, empty for what was read. `failure`: what rule was broken, with `trace`."""

    refusal: str = ""
    failure: str = ""
    trace: str = ""


def run(target: Target, data: bytes, folder: Path) -> Outcome:
    """Read one case in `folder`, watched."""
    try:
        with watched(folder, reads_anywhere=target.reads_anywhere):
            target.read(data, folder)
    except (VelaturaError, *target.refusals) as error:
        size = len(str(error))
        if size > LONGEST_MESSAGE:
            return Outcome(
                failure=f"message of {size // 1000} kB in {_place(error)}", trace=_trace(error)[:5000]
            )
        return Outcome(refusal=type(error).__name__)
    except (Exception, Broken) as error:
        return Outcome(failure=f"{type(error).__name__} in {_place(error)}", trace=_trace(error))
    return Outcome()


def digest(data: bytes) -> str:
    """A short name for an input."""
    return hashlib.sha256(data).hexdigest()[:12]


def _place(error: BaseException) -> str:
    """The deepest line of the package that the error went through: failures at one place are one bug."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "velatura" in Path(frame.filename).parts] or list(frames)
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "nowhere"


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=-12))[-6000:]
