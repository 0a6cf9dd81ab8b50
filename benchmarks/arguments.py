"""Arguments of benchmarks, refused before anything is measured: what was received, and what is allowed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def parser(about: str | None) -> argparse.ArgumentParser:
    """One that shows `about` as it is, and knows --json."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=file, metavar="FILE", help="write the figures there; its folder is made")
    return made


def at_least(least: int, *, step: int = 1) -> Callable[[str], int]:
    """Whole numbers from `least` up, multiples of `step`; 8e6 is one, too."""
    allowed = f"a whole number of at least {least}" + (f", a multiple of {step}" if step > 1 else "")

    def read(text: str) -> int:
        number = _number(text)
        if not number.is_integer() or number < least or number % step:
            raise _refused(text, allowed)
        return int(number)

    return read


count = at_least(1)


def positive(text: str) -> float:
    """A number above 0."""
    number = _number(text)
    if not 0 < number < float("inf"):
        raise _refused(text, "a number above 0")
    return number


def share(text: str) -> float:
    """Of a whole."""
    number = _number(text)
    if not 0 <= number <= 1:
        raise _refused(text, "a number from 0 to 1")
    return number


def size(text: str) -> tuple[int, int]:
    """Width and height."""
    edges = text.split("x")
    if len(edges) != 2 or not all(edge.isdecimal() and int(edge) for edge in edges):
        raise _refused(text, "WIDTHxHEIGHT in pixels, such as 1536x1024")
    return int(edges[0]), int(edges[1])


def names(known: Collection[str]) -> Callable[[str], list[str]]:
    """Some of those that are known, with commas between them."""

    def read(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise _refused(",".join(unknown), f"{', '.join(known)}, with commas between them")
        return chosen

    return read


def device(text: str) -> torch.device:
    """One of this machine."""
    from velatura.errors import RecipeError
    from velatura.placement.device import choose_device

    try:
        return choose_device(text)
    except RecipeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def planned_device(text: str) -> str:
    """The name of a device that plans know."""
    from velatura.errors import RecipeError
    from velatura.planning.devices import device_named

    try:
        device_named(text)
    except RecipeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def folder(text: str) -> Path:
    """A folder that is there."""
    if not Path(text).is_dir():
        raise _refused(text, "a folder that is there")
    return Path(text)


def new_folder(text: str) -> Path:
    """A folder that can be written to; it is made."""
    _make(Path(text), text)
    return Path(text)


def file(text: str) -> Path:
    """A file that can be written; its folder is made."""
    path = Path(text)
    _make(path.parent, text)
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise _refused(text, "a file that can be written")
    return path


def _make(path: Path, text: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(text, f"a path whose folder is there or can be made ({error})") from None
    if not os.access(path, os.W_OK):
        raise _refused(text, f"a path in a folder that can be written to, and {path} cannot")


def _number(text: str) -> float:
    """NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _refused(text: str, allowed: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"received '{text}', allowed: {allowed}")
