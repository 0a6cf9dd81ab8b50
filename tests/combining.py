"""Recipes that ask for given features of the table of capabilities, with what those need besides."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import product

from velatura.recipe.capabilities import REFUSED
from velatura.recipe.features import Feature
from velatura.recipe.problems import InvalidRecipe
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import parse_recipe

BASE = 'name = "a"\n[model]\nmodel = "{model}"\n[[data]]\nfolder = "{photos}"\n'
# what features may need beside them, and which of these do not go with each other
SECTIONS = ("[adapter]\n", "[full]\n")
NEEDED = ((), ("optimizer.clip=0",), ("training.precision=bf16",), ("training.checkpoint_blocks=true",))


def attempts(features: Collection[Feature], **places: str) -> Iterator[Recipe | InvalidRecipe]:
    """Recipes, or why they are none, that ask for all of the features, in different surroundings."""
    examples = [one.example for one in features if one.example]
    keys = {example.partition("=")[0] for example in examples}
    if len(set(examples)) > len(keys):
        return  # a key has one value
    beside = {one.beside for one in features if one.beside} | {
        one.key for one in features if "." not in one.key
    }
    text = BASE.format(**{"model": "pocket/flux", "photos": "photos", **places})
    for section, clip, precision, blocks in product(SECTIONS, *(((), one) for one in NEEDED[1:])):
        more = [line for line in (*clip, *precision, *blocks) if line.partition("=")[0] not in keys]
        if any(f"[{name}]" not in section for name in beside):
            continue
        try:
            recipe = parse_recipe(text + section, sets=[*more, *examples])
        except InvalidRecipe as refusal:
            yield refusal
            continue
        if all(feature.used(recipe) for feature in features):
            yield recipe


def combined(features: Collection[Feature], **places: str) -> Recipe | None:
    """The first recipe that has all of the features; None where there is none."""
    return next((one for one in attempts(features, **places) if isinstance(one, Recipe)), None)


def sections_for(feature: Feature) -> set[str]:
    """Those of [adapter] and [full] that the table lets a feature go with."""
    if "." not in feature.key:
        return {feature.key}
    refused = {pair.second.key for pair in REFUSED if pair.first is feature}
    return ({"adapter", "full"} if feature.beside is None else {feature.beside}) - refused
