"""The previews in a run's folder; each picture says how it was painted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from velatura.errors import RecipeError
from velatura.plural import counted
from velatura.sampling.png import read_record
from velatura.sampling.request import Request
from velatura.training.folder import OF_AVERAGE


def pictures(folder: Path) -> Iterator[tuple[int, Path, Request]]:
    """(step, picture, how it was painted), in the order of steps and numbers; other files are passed over."""
    for path in sorted(folder.glob("*/*.png")):
        if path.parent.name.isdigit():
            try:
                request, _ = read_record(path)
            except RecipeError:
                continue
            yield int(path.parent.name), path, request


def is_of_average(path: Path) -> bool:
    """Whether a preview was painted by the moving average of the weights; its name says so."""
    return path.stem.endswith(OF_AVERAGE)


def facts_of(request: Request) -> str:
    """What decides over a picture besides its prompt, for people: `64x64, seed 7, 4 sampling steps`."""
    facts = [f"{request.width}x{request.height}", f"seed {request.seed}"]
    facts += [counted(request.steps, "sampling step")] if request.steps else []
    facts += [f"guidance {request.guidance:g}"] if request.guidance else []
    if request.cfg is not None and request.cfg != 1:
        facts.append(f"cfg {request.cfg:g}")
        facts += [f"negative: {request.negative}"] if request.negative else []
    return ", ".join(facts)
