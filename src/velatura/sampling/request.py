"""What is to be painted: one typed request, as the command line, a preview line or a PNG's metadata states it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from velatura.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Request:
    """One image, or a batch of them. Unset values are filled with the model's defaults."""

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int | None = None
    width: int | None = None
    height: int | None = None
    guidance: float | None = None  # distilled guidance
    cfg: float | None = None  # classifier-free guidance; 1 is off
    strength: float = 1.0  # of the change of an input image
    batch: int = 1  # images painted together, each with its own noise
    first: int = 0  # number of the first image of the batch in the seed's series


# option letters as users of sd-scripts know them: --n negative, --d seed, --l cfg scale, --g distilled guidance
_LINE_OPTIONS = {
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "s": ("steps", int),
    "g": ("guidance", float),
    "l": ("cfg", float),
    "n": ("negative", str),
}
_OPTION = re.compile(r"\s--([A-Za-z]+)(?=\s|$)")


def parse_line(line: str, defaults: Request) -> Request:
    """A preview line such as `a dog on a beach --w 1024 --h 768 --d 7 --n blurry`.

    Raises RecipeError for an unknown option or a value of the wrong kind.
    """
    marks = list(_OPTION.finditer(line))
    changes: dict[str, object] = {"prompt": line[: marks[0].start()].strip() if marks else line.strip()}
    ends = [mark.start() for mark in marks[1:]] + [len(line)]
    for mark, end in zip(marks, ends, strict=False):  # a line without options has an end and no mark
        name = mark.group(1)
        value = line[mark.end() : end].strip()
        if name not in _LINE_OPTIONS:
            allowed = ", ".join(f"--{key} ({field})" for key, (field, _) in _LINE_OPTIONS.items())
            raise RecipeError(f"prompt line '{line}': unknown option --{name}; allowed: {allowed}")
        field, kind = _LINE_OPTIONS[name]
        try:
            changes[field] = kind(value)
        except ValueError:
            raise RecipeError(
                f"prompt line '{line}': --{name} wants {kind.__name__}, received '{value}'"
            ) from None
    return replace(defaults, **changes)  # type: ignore[arg-type]


def check(request: Request, size_step: int) -> None:
    """Refuse values that no model can paint. `size_step`: edges must be multiples of it."""
    for what, edge in (("width", request.width), ("height", request.height)):
        if edge is not None and (edge < size_step or edge % size_step):
            low = max(size_step, edge // size_step * size_step)
            raise RecipeError(
                f"{what} must be a multiple of {size_step}, received {edge}; nearest: {low} or {low + size_step}"
            )
    if request.steps is not None and not 1 <= request.steps <= 1000:
        raise RecipeError(f"steps must be 1 to 1000, received {request.steps}")
    for what, scale in (("guidance", request.guidance), ("cfg", request.cfg)):
        if scale is not None and not 0 <= scale < math.inf:
            raise RecipeError(f"{what} must be 0 or more, received {scale}")
    if not 0 < request.strength <= 1:
        raise RecipeError(f"strength must be above 0 and at most 1, received {request.strength}")
    if not 0 <= request.seed < 2**63:
        raise RecipeError(f"seed must be 0 to 2^63 - 1, received {request.seed}")
    if request.batch < 1:
        raise RecipeError(f"batch must be at least 1, received {request.batch}")
