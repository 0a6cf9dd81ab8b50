"""Every pair of features either goes together, or is refused with the reason that the table gives."""

from __future__ import annotations

from itertools import combinations

import pytest

from velatura.recipe.capabilities import (
    FEATURES,
    FOREIGN,
    FP16,
    NOT_BF16,
    REFUSED,
    STREAMED,
    STREAMED_IN_TRAINING,
    UNROUNDED,
)
from velatura.recipe.features import Feature
from velatura.recipe.problems import InvalidRecipe

from ..combining import attempts, combined, sections_for

PAIRS = list(combinations(FEATURES, 2))
CASE_OF = {
    FP16: NOT_BF16,
    FOREIGN: UNROUNDED,
    STREAMED_IN_TRAINING: STREAMED,
}  # what is a case of something wider


def of_pair(first: Feature, second: Feature) -> list[str]:
    """The table's reasons against a pair."""
    return [pair.reason for pair in REFUSED if {pair.first, pair.second} == {first, second}]


def set_by(feature: Feature) -> str:
    """The key that asks for a feature."""
    return feature.example.partition("=")[0] or feature.key


def name(pair: tuple[Feature, Feature]) -> str:
    return f"{pair[0].name} x {pair[1].name}"


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_each_feature_can_be_asked_for(feature: Feature) -> None:
    assert combined([feature])


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if of_pair(*pair)], ids=name)
def test_a_pair_of_the_table_is_refused_with_its_reason(pair: tuple[Feature, Feature]) -> None:
    found = list(attempts(pair))
    assert found
    assert all(isinstance(one, InvalidRecipe) for one in found)
    assert of_pair(*pair)[0] in str(found[0])


@pytest.mark.parametrize("first", FEATURES[:-1], ids=lambda feature: feature.name)
def test_every_other_pair_goes_together(first: Feature) -> None:
    """But for two values of one key, and two that want different sections."""
    for one, second in PAIRS:
        if one is not first or of_pair(one, second) or set_by(one) == set_by(second):
            continue
        apart = not sections_for(one) & sections_for(second)
        refused = of_pair(CASE_OF.get(one, one), CASE_OF.get(second, second))
        assert bool(combined((one, second))) != (apart or bool(refused)), f"{one.name} x {second.name}"


def test_every_feature_of_the_table_is_listed() -> None:
    named = {feature for pair in REFUSED for feature in (pair.first, pair.second)}
    assert named <= set(FEATURES)
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
