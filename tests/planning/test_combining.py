"""What goes together by the table of capabilities does go together: planned, and trained for a step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch

from velatura.planning.devices import device_named
from velatura.planning.estimate import Estimator
from velatura.recipe.capabilities import FEATURES
from velatura.recipe.features import Feature
from velatura.recipe.recipe import Recipe
from velatura.recipe.values import with_values
from velatura.training.run import train

from ..combining import combined
from ..tiny import Log, write_pictures

# each with each of its values
ALL = tuple(replace(one, example=value) for one in FEATURES for value in (one.example, *one.others))
# of a family that is no transformer
OF_SD1 = (
    "memory.weights",
    "memory.streamed",
    "training.checkpoint_blocks",
    "training.compile",
    "adapter",
    "full",
)


def cover(features: Sequence[Feature]) -> list[tuple[Feature, ...]]:
    """Groups of features that go together, so that every pair that does is in one of them."""
    left = {pair for pair in combinations(features, 2) if combined(pair)}
    groups: list[tuple[Feature, ...]] = []
    while left:
        group = min(left, key=lambda pair: tuple(map(features.index, pair)))
        for feature in features:
            if feature not in group and any({feature, one} <= set(pair) for one in group for pair in left):
                group = (*group, feature) if combined((*group, feature)) else group
        left = {pair for pair in left if not set(pair) <= set(group)}
        groups.append(group)
    return groups


@pytest.mark.slow
@pytest.mark.parametrize(("family", "keys"), [("flux", None), ("sd1", OF_SD1)])
def test_every_pair_that_is_allowed_is_planned_and_trained(
    family: str,
    keys: Collection[str] | None,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compiled blocks go through all of the compiler but the making of kernels."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, **how: compiler(run, backend="aot_eager", **how))
    model = request.getfixturevalue(family)
    photos = write_pictures(tmp_path / "photos", [(64, 64)] * 4)
    for number, group in enumerate(cover([one for one in ALL if keys is None or one.key in keys])):
        found = combined(group, model=str(model), photos=str(photos))
        assert found is not None
        wanted = _short(found, f"run-{number}", tmp_path)
        what = ", ".join(one.example or one.name for one in group)
        log = Log()
        try:
            assert Estimator.of_recipe(wanted, tmp_path, device_named("cpu")).of(wanted).needed > 0
            assert train(wanted, tmp_path, events=log.events).exit_code == 0
        except Exception as error:
            raise AssertionError(f"{what}: {error}") from error
        finally:
            torch.compiler.reset()
        assert "the compiler failed" not in log.texts, what


def _short(recipe: Recipe, name: str, base: Path) -> Recipe:
    data = [source.model_copy(update={"resolution": 64}) for source in recipe.data]
    validation = {} if recipe.validation.folder is None else {"validation.folder": str(base / "photos")}
    precision = recipe.training.precision
    changes = {
        "training.steps": 1,
        "training.device": "cpu",
        "training.compile": recipe.training.compile is True,
        "training.precision": "fp32" if precision == "auto" else precision,
        "output.folder": str(base / "runs"),
        **validation,
    }
    return with_values(recipe, changes).model_copy(update={"name": name, "data": data})
