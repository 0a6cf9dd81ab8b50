"""Values of `[optimizer]` that are right one by one and must also go together with each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from velatura.recipe.errors import nearest
from velatura.recipe.problems import Problem
from velatura.recipe.schema import listing
from velatura.recipe.training.optimizer import BUILT_IN, Optimizer, default_of

if TYPE_CHECKING:
    from velatura.recipe.recipe import Recipe

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*")
_OWN = ("betas", "weight_decay", "eps")  # keys that a class by import path takes from its options
_OF_SCHEDULES = {
    "min_share": ("linear", "cosine", "cosine_with_restarts", "polynomial"),
    "cycles": ("cosine_with_restarts",),
    "power": ("polynomial",),
}

# what sd-scripts and other tools call them, in small letters
_ELSEWHERE = {
    "adam": "torch.optim.Adam",
    "adam8bit": "adamw8bit",
    "pagedadamw": "adamw",
    "pagedadamw32bit": "adamw",
    "pagedadamw8bit": "adamw8bit",
    "lion": "lion_pytorch.Lion",
    "lion8bit": "bitsandbytes.optim.Lion8bit",
    "pagedlion8bit": "bitsandbytes.optim.PagedLion8bit",
    "sgd": "torch.optim.SGD",
    "sgdnesterov": "torch.optim.SGD",
    "sgdnesterov8bit": "bitsandbytes.optim.SGD8bit",
    "dadaptation": "dadaptation.experimental.DAdaptAdamPreprint",
    "dadaptadampreprint": "dadaptation.experimental.DAdaptAdamPreprint",
    "dadaptadagrad": "dadaptation.DAdaptAdaGrad",
    "dadaptadam": "dadaptation.DAdaptAdam",
    "dadaptadan": "dadaptation.DAdaptAdan",
    "dadaptadanip": "dadaptation.experimental.DAdaptAdanIP",
    "dadaptlion": "dadaptation.DAdaptLion",
    "dadaptsgd": "dadaptation.DAdaptSGD",
    "prodigy": "prodigyopt.Prodigy",
    "adamwschedulefree": "schedulefree.AdamWScheduleFree",
    "radamschedulefree": "schedulefree.RAdamScheduleFree",
    "sgdschedulefree": "schedulefree.SGDScheduleFree",
}


def optimizer_problems(recipe: Recipe) -> Iterator[Problem]:
    """What does not go together; a kind that nobody knows is the only one then."""
    section = recipe.optimizer
    if section.by_path and not _PATH.fullmatch(section.kind):
        yield _unknown_kind(section.kind)
        return
    yield from _options(section)
    yield from _schedule(section)


def _unknown_kind(kind: str) -> Problem:
    close = _ELSEWHERE.get(kind.lower()) or nearest(kind, BUILT_IN)
    what = f'received "{kind}"; allowed: {listing(BUILT_IN)}, or the import path of a class'
    hint = (
        f'write kind = "{close}"' if close else 'a class is written "package.Class" or "package.module:Class"'
    )
    return Problem(path=("optimizer", "kind"), what=what, hint=hint)


def _options(section: Optimizer) -> Iterator[Problem]:
    """Nothing that is given may have no effect."""
    if not section.by_path and section.options:
        what = f'received options with kind = "{section.kind}"; allowed with a class by import path'
        yield Problem(path=("optimizer", "options"), what=what, hint=f"its keys are {', '.join(_OWN)}")
    for key in ("lr", "params"):
        if key in section.options:
            what = (
                f"{key} is passed on already; write learning_rate"
                if key == "lr"
                else "params is passed on already"
            )
            yield Problem(path=("optimizer", "options", key), what=what)
    unused = _OWN if section.by_path else ("betas", "eps") if section.kind == "adafactor" else ()
    for key in unused:
        if (value := getattr(section, key)) != default_of(key):
            hint = f"write it in [optimizer.options]: {key} = {value}" if section.by_path else "leave it out"
            yield Problem(
                path=("optimizer", key), what=f'has no effect with kind = "{section.kind}"', hint=hint
            )


def _schedule(section: Optimizer) -> Iterator[Problem]:
    for key, schedules in _OF_SCHEDULES.items():
        if getattr(section, key) != default_of(key) and section.schedule not in schedules:
            what = f'has no effect with schedule = "{section.schedule}"; allowed with {listing(schedules)}'
            yield Problem(path=("optimizer", key), what=what)
