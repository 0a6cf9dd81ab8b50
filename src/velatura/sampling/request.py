"""What is to be painted: one typed request, as the command line, a preview line or a PNG's metadata states it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace

from velatura.errors import RecipeError
from velatura.recipe.sampling.request import line_values, out_of_range

MAX_BATCH = 64
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


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


def parse_line(line: str, defaults: Request) -> Request:
    """A preview line such as `a dog on a beach --w 1024 --h 768 --d 7 --n blurry`.

    Raises RecipeError for an unknown option or a value of the wrong kind.
    """
    return replace(defaults, **line_values(line))


def check(request: Request, size_step: int) -> None:
    """Refuse values that no model can paint. `size_step`: edges must be multiples of it. Raises RecipeError."""
    for _, wrong in out_of_range(asdict(request), size_step):
        raise RecipeError(wrong)
    if not 0 < request.strength <= 1:
        raise RecipeError(f"strength must be above 0 and at most 1, received {request.strength}")
    if not 1 <= request.batch <= MAX_BATCH:
        raise RecipeError(
            f"batch must be 1 to {MAX_BATCH}, received {request.batch}; more pictures are painted one after another "
            "with count"
        )
    if not 0 <= request.first < 2**63:
        raise RecipeError(f"first must be 0 to 2^63 - 1, received {request.first}")
    _check_text("the prompt", request.prompt)
    _check_text("the negative prompt", request.negative)


def _check_text(name: str, text: str) -> None:
    """Refuse what is no Unicode text: surrogates, which stand for bytes that were no UTF-8, and NUL."""
    if found := _NO_TEXT.search(text):
        what = "a NUL" if found[0] == "\0" else "a byte that is not UTF-8"
        raise RecipeError(
            f"{name} has {what} at character {found.start() + 1}, and must be Unicode text: type it anew, or save its "
            "file as UTF-8"
        )
