"""What goes together by the table of capabilities does go together: planned, and trained for a step."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from velatura.planning.devices import device_named
from velatura.planning.estimate import Estimator
from velatura.recipe.capabilities import FEATURES
from velatura.recipe.features import Feature
from velatura.recipe.recipe import Recipe
from velatura.recipe.values import with_values
from velatura.training.run import train

from ..combining import combined
from ..tiny import Log, write_pictures


def cover() -> list[tuple[Feature, ...]]:
    """Groups of features that go together, so that every pair that does is in one of them."""
    left = {pair for pair in combinations(FEATURES, 2) if combined(pair)}
    groups: list[tuple[Feature, ...]] = []
    while left:
        group = min(left, key=lambda pair: tuple(map(FEATURES.index, pair)))
        for feature in FEATURES:
            if feature not in group and any({feature, one} <= set(pair) for one in group for pair in left):
                group = (*group, feature) if combined((*group, feature)) else group
        left = {pair for pair in left if not set(pair) <= set(group)}
        groups.append(group)
    return groups


@pytest.mark.slow
def test_every_pair_that_is_allowed_is_planned_and_trained(tmp_path: Path, flux: Path) -> None:
    photos = write_pictures(tmp_path / "photos", [(64, 64)] * 4)
    for number, group in enumerate(cover()):
        found = combined(group, model=str(flux), photos=str(photos))
        assert found is not None
        wanted = _short(found, f"run-{number}", tmp_path)
        what = ", ".join(feature.name for feature in group)
        try:
            assert Estimator.of_recipe(wanted, tmp_path, device_named("cpu")).of(wanted).needed > 0
            assert train(wanted, tmp_path, events=Log().events).exit_code == 0
        except Exception as error:
            raise AssertionError(f"{what}: {error}") from error


def _short(recipe: Recipe, name: str, base: Path) -> Recipe:
    data = [source.model_copy(update={"resolution": 64}) for source in recipe.data]
    validation = {} if recipe.validation.folder is None else {"validation.folder": str(base / "photos")}
    precision = recipe.training.precision
    changes = {
        "training.steps": 1,
        "training.device": "cpu",
        "training.compile": False,
        "training.precision": "fp32" if precision == "auto" else precision,
        "output.folder": str(base / "runs"),
        **validation,
    }
    return with_values(recipe, changes).model_copy(update={"name": name, "data": data})
