"""Values of a recipe that are right one by one and must also go together; no file is looked at.

Pairs of features are in the table of `capabilities`; here is what is more than a pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from velatura.errors import RecipeError
from velatura.recipe.capabilities import refused_pairs
from velatura.recipe.data_consistency import data_problems
from velatura.recipe.optimizer_consistency import optimizer_problems
from velatura.recipe.problems import Inconsistent, Problem
from velatura.recipe.sampling.request import line_values, out_of_range
from velatura.recipe.schema import listing
from velatura.recipe.training.validation import TAKEN

if TYPE_CHECKING:
    from velatura.recipe.recipe import Recipe


def require_consistent(recipe: Recipe) -> None:
    """Raise Inconsistent with all that does not go together."""
    checks = (
        _one_thing_to_train,
        _objective_fits,
        _parts_have_a_source,
        _from_scratch,
        _validation,
        _formats,
        _attention,
        _offloaded_activations,
        _ema,
        _data,
        optimizer_problems,
        refused_pairs,
        _preview_values,
    )
    if problems := [problem for check in checks for problem in check(recipe)]:
        raise Inconsistent(problems)


def is_consistent(recipe: Recipe) -> bool:
    """Whether all goes together."""
    try:
        require_consistent(recipe)
    except Inconsistent:
        return False
    return True


def _one_thing_to_train(recipe: Recipe) -> Iterator[Problem]:
    if (recipe.adapter is None) == (recipe.full is None):
        received = "neither" if recipe.adapter is None else "both"
        what = f"received {received} of [adapter] and [full]; allowed: one of them"
        yield Problem(
            path=("adapter",), what=what, hint="[adapter] trains a LoRA, [full] the weights themselves"
        )


def _objective_fits(recipe: Recipe) -> Iterator[Problem]:
    kind, path = recipe.objective.kind, ("objective", "kind")
    trained = recipe.full.parts if recipe.full else ["denoiser"]
    if kind == "autoencoder":
        if trained != ["autoencoder"]:
            what = f'received "autoencoder", which does not train {listing(trained, "and")}'
            yield Problem(path=path, what=what, hint='it goes with [full] parts = ["autoencoder"]')
    elif "autoencoder" in trained:
        what = f'received "{kind}", which does not train the autoencoder; allowed: "autoencoder"'
        yield Problem(path=path, what=what, hint="train the autoencoder in a run of its own")
    elif kind not in recipe.model.objectives:
        what = (
            f'received "{kind}"; the family {recipe.model.family} allows {listing(recipe.model.objectives)}'
        )
        yield Problem(path=path, what=what)


def _parts_have_a_source(recipe: Recipe) -> Iterator[Problem]:
    model = recipe.model
    if model.model is not None:
        return
    needed: dict[str, object] = {"autoencoder": model.autoencoder}
    if recipe.objective.kind != "autoencoder":
        needed |= {"denoiser": model.denoiser, "text_encoders": model.text_encoders or None}
    if missing := [name for name, given in needed.items() if given is None]:
        what = f"no source for {listing(missing, 'and')}: neither a key of its own nor model is given"
        yield Problem(
            path=("model",), what=what, hint="model = a folder or hub id gives all parts that are not named"
        )


def _from_scratch(recipe: Recipe) -> Iterator[Problem]:
    model = recipe.model
    path = ("model", "from_scratch")
    if model.from_scratch and model.model is None:
        yield Problem(path=path, what="needs model: the folder whose configs give the shapes")
    for part in model.from_scratch:
        if getattr(model, part):
            yield Problem(
                path=path, what=f"{part} starts from random weights and from a file at once; choose one"
            )


def _validation(recipe: Recipe) -> Iterator[Problem]:
    names: set[str] = set(TAKEN)
    for index, one in enumerate(recipe.validation_sets):
        if one.name in names:
            what = f'received "{one.name}", which is the name of another loss; allowed: a name of its own'
            yield Problem(path=("validation_sets", index, "name"), what=what)
        names.add(one.name)


def _formats(recipe: Recipe) -> Iterator[Problem]:
    allowed = recipe.model.lora_formats
    for index, name in enumerate(recipe.output.formats):
        if recipe.adapter is not None and name not in allowed:
            what = f'received "{name}"; LoRAs of the family {recipe.model.family} are written as {listing(allowed)}'
            yield Problem(path=("output", "formats", index), what=what)


def _attention(recipe: Recipe) -> Iterator[Problem]:
    if recipe.training.attention == "sage":
        what = 'received "sage", which has no backward pass: nothing would be learned through it'
        hint = "`velatura generate --attention sage` paints with it"
        yield Problem(path=("training", "attention"), what=what, hint=hint)


def _offloaded_activations(recipe: Recipe) -> Iterator[Problem]:
    memory, policy = recipe.memory, recipe.training.checkpoint_blocks
    if not memory.offload_activations or recipe.objective.kind == "autoencoder":
        return
    recomputed = memory.streamed and recipe.trains_denoiser
    if policy in (False, "mlp") and not recomputed:
        what = "received true, and no block is recomputed: none keeps its inputs alone"
        hint = "write training.checkpoint_blocks = true"
        yield Problem(path=("memory", "offload_activations"), what=what, hint=hint)


def _ema(recipe: Recipe) -> Iterator[Problem]:
    ema = recipe.ema
    if ema is None:
        return
    if ema.every > recipe.training.steps:
        what = f"received {ema.every}, and training.steps = {recipe.training.steps}: no update would be made"
        yield Problem(path=("ema", "every"), what=what)


def _data(recipe: Recipe) -> Iterator[Problem]:
    yield from data_problems(recipe.data)


def _preview_values(recipe: Recipe) -> Iterator[Problem]:
    """Options in prompt lines, and values out of range; sizes are left to `paintable`, which knows the model."""
    section = recipe.previews
    for name in ("guidance", "cfg"):
        for _, wrong in out_of_range({name: getattr(section, name)}, 1):
            yield Problem(path=("previews", name), what=wrong)
    for index, line in enumerate(section.prompts):
        path = ("previews", "prompts", index)
        try:
            values = line_values(line)
        except RecipeError as error:
            yield Problem(path=path, what=str(error))
            continue
        values = {name: value for name, value in values.items() if name not in ("width", "height")}
        yield from (Problem(path=path, what=wrong) for _, wrong in out_of_range(values, 1))
