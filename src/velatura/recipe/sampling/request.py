"""What a preview line may say: its options, and the values that no model can paint."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from velatura.errors import RecipeError

# option letters as users of sd-scripts know them: --n negative, --d seed, --l cfg scale, --g distilled guidance
OPTIONS: Mapping[str, tuple[str, type]] = {
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "s": ("steps", int),
    "g": ("guidance", float),
    "l": ("cfg", float),
    "n": ("negative", str),
}
KINDS = {int: "an integer", float: "a number", str: "a text"}
_OPTION = re.compile(r"(?:^|(?<=\s))--([A-Za-z]\S*)(?=\s|$)")
LARGEST_EDGE = 16384  # pixels, as for the images of [[data]]
MAX_PIXELS = 4096 * 4096  # of a picture: many times what any of the models was made for
SHOWN = 60  # characters of a line in a message


def line_values(line: str) -> dict[str, Any]:
    """The prompt and the named values of `a dog on a beach --w 1024 --h 768 --d 7 --n blurry`.

    Raises RecipeError for an unknown option, one that is given twice, or a value of the wrong kind.
    """
    marks = list(_OPTION.finditer(line))
    ends = [mark.start() for mark in marks[1:]] + [len(line)]
    found: dict[str, Any] = {"prompt": line[: marks[0].start()].strip() if marks else line.strip()}
    for mark, end in zip(marks, ends, strict=False):  # a line without options has an end and no mark
        name, value = mark[1], line[mark.end() : end].strip()
        if name not in OPTIONS:
            raise _refusal(line, f"unknown option --{name}; allowed: {_allowed()}")
        field, kind = OPTIONS[name]
        if field in found:
            raise _refusal(line, f"--{name} is there twice; allowed: once")
        try:
            found[field] = kind(value)
        except ValueError:
            raise _refusal(line, f"--{name} wants {KINDS[kind]}, received '{value}'") from None
    return found


def out_of_range(values: Mapping[str, Any], size_step: int) -> Iterator[tuple[str, str]]:
    """(name, what is wrong) for values that no model can paint; those that are not given, or None, are fine.

    `size_step`: edges must be multiples of it.
    """
    for name in ("width", "height"):
        edge = values.get(name)
        if edge is not None and edge > LARGEST_EDGE:
            yield name, f"{name} must be at most {LARGEST_EDGE}, received {edge}"
        elif edge is not None and (edge < size_step or edge % size_step):
            low = max(size_step, edge // size_step * size_step)
            nearest = f"nearest: {low} or {low + size_step}"
            yield name, f"{name} must be a multiple of {size_step}, received {edge}; {nearest}"
    width, height = values.get("width"), values.get("height")
    if width and height and width * height > MAX_PIXELS:
        yield "width", f"width x height must be at most {MAX_PIXELS:,} pixels, received {width} x {height}"
    if (steps := values.get("steps")) is not None and not 1 <= steps <= 1000:
        yield "steps", f"steps must be 1 to 1000, received {steps}"
    for name in ("guidance", "cfg"):
        scale = values.get(name)
        if scale is not None and not 0 <= scale < math.inf:
            yield name, f"{name} must be 0 or more, received {scale}"
    if (seed := values.get("seed")) is not None and not 0 <= seed < 2**63:
        yield "seed", f"seed must be 0 to 2^63 - 1, received {seed}"


def _allowed() -> str:
    return ", ".join(f"--{key} ({field})" for key, (field, _) in OPTIONS.items())


def _refusal(line: str, what: str) -> RecipeError:
    shown = line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
    return RecipeError(f"prompt line '{shown}': {what}")
