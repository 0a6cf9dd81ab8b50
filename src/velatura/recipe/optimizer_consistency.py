"""Values of `[optimizer]` that are right one by one and must also go together with each other and the rest."""

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
ROUNDED = ("adamw", "adamw8bit", "adafactor")  # kinds that can train weights in bf16

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
    yield from _bf16_weights(recipe)
    if section.fused_backward:
        yield from _fused_backward(recipe)


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


def _bf16_weights(recipe: Recipe) -> Iterator[Problem]:
    if recipe.full is None or recipe.full.weights == "fp32":
        return
    path = ("full", "weights")
    if recipe.optimizer.kind not in ROUNDED:
        what = f'received "bf16" with optimizer.kind = "{recipe.optimizer.kind}"; allowed with {listing(ROUNDED)}'
        yield Problem(path=path, what=what, hint="they round updates so that small ones are not lost")
    if recipe.objective.kind == "autoencoder":
        what = 'received "bf16" with the objective "autoencoder", which is computed in more; allowed with the others'
        yield Problem(path=path, what=what, hint="leave it out: an autoencoder is small")
    if recipe.training.precision != "bf16":
        what = f'received "bf16" with training.precision = "{recipe.training.precision}"; allowed with "bf16"'
        yield Problem(path=path, what=what, hint='write training.precision = "bf16"')


def _fused_backward(recipe: Recipe) -> Iterator[Problem]:
    section, training = recipe.optimizer, recipe.training
    reasons = []
    if recipe.full is None:
        reasons.append("with [adapter]: the gradients of an adapter are small; allowed with [full]")
    if section.by_path:
        own = f'with kind = "{section.kind}", whose updates may depend on all gradients'
        reasons.append(f"{own}; allowed with {listing(BUILT_IN)}")
    if section.clip > 0:
        norm = "the norm of all gradients is known only after all updates"
        reasons.append(f"with clip = {section.clip:g}: {norm}; allowed with clip = 0")
    if training.accumulate > 1:
        sums = "gradients are added up over passes"
        reasons.append(f"with training.accumulate = {training.accumulate}: {sums}; allowed with 1")
    if training.precision == "fp16":
        scaling = "its loss scaling looks at all gradients before an update"
        reasons.append(f'with training.precision = "fp16": {scaling}; allowed with "bf16" and "fp32"')
    if training.retry_on_oom:
        reasons.append("with training.retry_on_oom = true: a step that is half made cannot be made again")
    if reasons:
        yield Problem(path=("optimizer", "fused_backward"), what=f"received true {'; and '.join(reasons)}")
