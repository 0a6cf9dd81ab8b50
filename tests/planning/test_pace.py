"""How fast candidates are said to be: by hand, and beside what they are planned to take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from velatura.planning.candidates import candidates
from velatura.planning.choose import choose
from velatura.planning.devices import KNOWN
from velatura.planning.estimate import Estimator
from velatura.planning.pace import Pace
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import parse_recipe
from velatura.training.planned import open_keys

from .conftest import FLUX_LORA

GIB = 2**30
LINK = replace(KNOWN["4090"], link=1e9)
TEXT = 'name = "x"\n[model]\nmodel = "pocket/flux"\n[[data]]\nfolder = "x"\n[training]\nprecision = "bf16"\n'
PACE = Pace(device=LINK, computing=2.0, update=0.0, blocks=10**9, ahead=10**8, trained=3 * 10**8, batch=4)


def seconds(text: str, *sets: str, slower: float = 1.0) -> float:
    return PACE.seconds(parse_recipe(TEXT + text, sets=sets), slower)


def test_the_slower_of_computing_and_copying_sets_the_pace() -> None:
    """2 bytes of 1e9 weights, twice, but of 1e8 that no gradient goes through; over 1e9 bytes a second."""
    assert seconds("[adapter]\n") == 2.0
    assert seconds("[adapter]\n", slower=1.5) == 3.0
    assert seconds("[adapter]\n", "memory.streamed=0.25") == 2.0
    assert seconds("[adapter]\n", "memory.streamed=1") == 3.8
    assert seconds("[adapter]\n", "memory.streamed=1", slower=2.5) == 5.0
    assert seconds("[adapter]\n", "memory.streamed=1", "memory.weights=nf4") == 2.0
    assert seconds("[adapter]\n", "memory.streamed=1", "training.accumulate=3") == pytest.approx(11.4)
    assert seconds("[adapter]\n", "memory.streamed=1", "memory.micro_batch=3") == pytest.approx(7.6)


def test_trained_weights_and_averages_cross_the_link_in_the_update() -> None:
    """Of trained weights there are 4 bytes, as many of gradients, and 8 of averages, at 3e8 values."""
    assert seconds("[full]\n", "memory.streamed=0.5") == pytest.approx(4 * 2.0)
    assert seconds("[full]\n", "memory.streamed=0.5", "training.accumulate=3") == pytest.approx(10 * 2.0)
    in_update = 2 * 0.4
    assert seconds("[full]\n", "memory.streamed=0.1") == pytest.approx(2.0 * 1.025 + in_update)  # recomputed
    recomputed = ("training.checkpoint_blocks=true",)
    assert seconds("[full]\n", "memory.streamed=0.1", *recomputed, slower=1.25) == 2.0 * 1.25 + in_update
    fused = ("optimizer.fused_backward=true", "optimizer.clip=0")
    assert seconds("[full]\n", "memory.streamed=0.5", *fused) == pytest.approx(2 * 2.0)
    assert seconds("[full]\n", "optimizer.offload=true") == pytest.approx(2.0 + 2.4)
    assert seconds("[full]\n", "optimizer.offload=true", *fused) == pytest.approx(2.4)
    assert seconds("[full]\n", "optimizer.offload=true", "optimizer.kind=adamw8bit") == pytest.approx(2.6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["4090", "h100"])
@pytest.mark.parametrize(
    ("trained", "budgets"), [("[adapter]", (8, 12, 16, 24)), ("[full]", (24, 48, 80, 141))]
)
def test_what_is_chosen_is_the_fastest_that_fits(
    tmp_path: Path, flux_dev: Callable[..., Recipe], trained: str, budgets: tuple[int, ...], name: str
) -> None:
    """Of all candidates that change no result on purpose, each followed; exactness in the time that it is worth."""
    text = FLUX_LORA.replace("[adapter]\nrank = 16", trained)
    wanted = flux_dev("data.0.resolution=512", "previews.prompts=[]", text=text)
    keys = open_keys(wanted)
    estimator = Estimator.of_recipe(wanted, tmp_path, KNOWN[name])
    followed = [(one, estimator.of(one.recipe)) for one in candidates(wanted, KNOWN[name], keys)]
    assert len(followed) > 100
    for budget in budgets:
        made = choose(estimator, wanted, budget * GIB, keys)
        best = min(needs.seconds * one.loss for one, needs in followed if needs.fits(budget * GIB))
        assert made.fits
        assert made.estimate.seconds * made.chosen.loss <= 1.06 * best, budget


def test_more_passes_take_as_long_as_following_them_has_shown() -> None:
    pace = replace(PACE, in_passes={None: 1.0, 2: 1.4})
    recipe = parse_recipe(f"{TEXT}[adapter]\n", sets=("memory.micro_batch=2",))
    assert pace.seconds(recipe, 1.5) == pytest.approx(2.0 * 1.5 * 1.4)
