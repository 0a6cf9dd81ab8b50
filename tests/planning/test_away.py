"""Bytes that are elsewhere than on the device, by hand: four blocks of 100 bytes, no layers ahead of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from velatura.planning.away import away, inputs_away, without, without_inputs
from velatura.planning.phases import Moment, Phase, at_once
from velatura.planning.tracking import Bytes, Work
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import parse_recipe

LEAST = 2**20
TEXT = 'name = "x"\n[model]\nmodel = "pocket/flux"\n[[data]]\nfolder = "x"\n'
ASSEMBLED = SimpleNamespace(ahead_sizes=(), block_sizes=(100,) * 4, largest=40, left_out={1: 7, 4: 9})


def trained(recipe: Recipe) -> Any:
    return away(
        SimpleNamespace(  # type: ignore[arg-type]
            assembled=ASSEMBLED,
            resident=Bytes(trained=500, optimizer=1000),
            offloaded=lambda: 900,
            averages=0,
            kept_aside=0,
        ),
        recipe,
        accumulated=recipe.training.accumulate > 1,
    )


def step(**peak: int) -> Phase:
    return Phase(name="step", what="", moments=at_once(Bytes(peak)), work=Work())  # type: ignore[arg-type]


def test_frozen_blocks_pass_through_two_slots() -> None:
    gone = trained(parse_recipe(f"{TEXT}[adapter]\n[memory]\nstreamed = 0.75\n"))
    assert (gone.host, gone.slots, gone.per_pass, gone.per_update) == (300, 200, 300, 0)
    assert without(step(denoiser=450, trained=50, gradients=50), gone).peak == Bytes(
        {**dict.fromkeys(Bytes().plus({}), 0), "denoiser": 350, "trained": 50, "gradients": 50}
    )


@pytest.mark.parametrize(("accumulate", "at_hand"), [(1, 40), (2, 80)])
def test_trained_blocks_take_their_gradients_along(accumulate: int, at_hand: int) -> None:
    text = f"{TEXT}[full]\n[memory]\nstreamed = 1.0\n[training]\naccumulate = {accumulate}\n"
    gone = trained(parse_recipe(text))
    assert (gone.host, gone.gradients, gone.per_update) == (400, 400, 800)
    peak = without(step(trained=500, gradients=500), gone).peak
    assert peak["trained"] == 500 - 400 + 2 * 100
    assert peak["gradients"] == 100 + at_hand


def test_blocks_that_are_updated_in_the_backward_pass_want_a_third_slot_and_keep_no_gradients() -> None:
    text = f"{TEXT}[full]\n[memory]\nstreamed = 1.0\n[optimizer]\nfused_backward = true\nclip = 0\n"
    gone = trained(parse_recipe(text))
    assert (gone.slots, gone.gradients, gone.at_hand, gone.per_update) == (300, 0, 0, 0)


def test_of_averages_those_of_two_weights_stay() -> None:
    """900 of them belong to 500 bytes of weights; the largest weight has 40."""
    gone = trained(parse_recipe(f"{TEXT}[full]\n[optimizer]\noffload = true\n"))
    assert (gone.optimizer, gone.visiting) == (900, 2 * 40 * 900 // 500)
    assert without(step(optimizer=1000), gone).peak["optimizer"] == 100 + 144


def test_inputs_of_all_recomputed_blocks_but_two_are_away() -> None:
    """7 + 3 and 9 + 3 blocks."""
    recomputed = Phase(name="step", what="", moments=(), work=Work(), inputs=(LEAST, 2 * LEAST))
    all_of_them = 10 * LEAST + 12 * 2 * LEAST
    assert inputs_away(recomputed, ASSEMBLED, 1.0) == all_of_them - 2 * 2 * LEAST  # type: ignore[arg-type]
    assert inputs_away(recomputed, ASSEMBLED, 0.5) == all_of_them // 2 - 2 * 2 * LEAST  # type: ignore[arg-type]


def moments(*held: tuple[str, dict[Any, int]]) -> tuple[Moment, ...]:
    return tuple(Moment(kind=kind, held=Bytes(each)) for kind, each in held)


def made(kept: int, *held: tuple[str, dict[Any, int]]) -> Phase:
    found = moments(*held)
    return Phase(name="step", what="", moments=found, work=Work(), kept=kept)


def test_another_moment_is_the_highest_once_something_is_away() -> None:
    """The update needs most, until its averages are gone."""
    gone = trained(parse_recipe(f"{TEXT}[full]\n[optimizer]\noffload = true\n"))
    whole = made(
        300,
        ("backward", {"trained": 500, "activations": 600, "optimizer": 1000}),
        ("update", {"trained": 500, "gradients": 500, "activations": 200, "optimizer": 1000}),
    )
    assert whole.peak["gradients"] == 500
    left = without(whole, gone).peak
    assert (left["gradients"], left["activations"]) == (500, 200)
    streamed = trained(parse_recipe(f"{TEXT}[full]\n[memory]\nstreamed = 1.0\n"))
    left = without(whole, streamed).peak
    assert (left["gradients"], left["activations"], left["trained"]) == (0, 600, 300)


def test_inputs_that_are_away_take_nothing_from_a_start_or_an_update() -> None:
    whole = made(
        80,
        ("start", {"activations": 70}),
        ("forward", {"activations": 80}),
        ("backward", {"activations": 100}),
        ("update", {"activations": 50, "gradients": 85}),
    )
    found = without_inputs(whole, 60, whole)
    assert (found.kept, found.away) == (20, 60)
    assert [one.held["activations"] for one in found.moments] == [70, 20, 40, 50]
    assert found.peak["gradients"] == 85
