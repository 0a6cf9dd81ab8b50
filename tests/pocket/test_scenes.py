from __future__ import annotations

import itertools

import numpy as np
import pytest

from velatura.errors import DataError
from velatura.pocket.layout import APART, fits, sample_scene, silhouette
from velatura.pocket.renderer import measure
from velatura.pocket.scenes import (
    COLOURS,
    CONCEPTS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    Scene,
    Solid,
    edit,
    held_out,
    remove,
)


def cube(x: float = 0.0, z: float = 0.0, colour: str = "red") -> Solid:
    return Solid(shape="cube", colour=colour, size="small", material="matte", x=x, z=z)


PAIR = Scene(solids=(cube(x=-0.6), cube(x=0.6, colour="blue")), light="noon")


def test_the_world_is_as_large_as_documented() -> None:
    assert (len(SHAPES), len(COLOURS), len(SIZES), len(MATERIALS), len(LIGHTS)) == (5, 8, 2, 3, 3)


def test_solids_are_kept_from_left_to_right() -> None:
    scene = Scene(solids=(cube(x=0.5), cube(x=-0.5, colour="blue")), light="dusk")
    assert [solid.colour for solid in scene.solids] == ["blue", "red"]


def test_json_round_trip() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scene = sample_scene(rng)
        assert Scene.from_json(scene.to_json()) == scene


@pytest.mark.parametrize("text", ["", "{}", '{"light": "noon", "solids": [{"shape": "cube"}]}', "[1]"])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"scenes\.jsonl"):
        Scene.from_json(text)


def test_unknown_words_name_what_is_allowed() -> None:
    with pytest.raises(DataError, match="teal.*\n.*red, orange"):
        cube(colour="teal")
    with pytest.raises(DataError, match="noon, dusk, night"):
        Scene(solids=(), light="dawn")


def test_about_one_combination_in_twenty_is_held_out() -> None:
    combinations = itertools.product(SHAPES, COLOURS, SIZES, MATERIALS)
    alone = [
        held_out(Scene(solids=(Solid(shape=a, colour=b, size=c, material=d, x=0, z=0),), light="noon"))
        for a, b, c, d in combinations
    ]
    assert len(alone) == 240
    assert 5 <= sum(alone) <= 20


def test_holding_out_ignores_light_and_places() -> None:
    moved = Scene(solids=(cube(x=-0.2, colour="blue"), cube(x=0.9)), light="night")
    assert held_out(moved) == held_out(PAIR)


def test_splits_are_disjoint() -> None:
    rng = np.random.default_rng(1)
    train = [sample_scene(rng) for _ in range(60)]
    kept = [sample_scene(rng, split="held-out") for _ in range(30)]
    assert not any(held_out(scene) for scene in train)
    assert all(held_out(scene) for scene in kept)


def test_sampled_scenes_are_drawn_apart_and_in_the_frame() -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        scene = sample_scene(rng)
        assert fits(scene)
        masks = measure(scene, 96).masks
        assert masks.sum(0).max() <= 1
        assert not masks[:, [0, -1]].any()
        assert not masks[:, :, [0, -1]].any()
        middles = [np.flatnonzero(mask.any(0))[[0, -1]].mean() for mask in masks]
        assert all(b - a > 0.9 * APART * 96 for a, b in itertools.pairwise(middles))


def test_counts_and_attributes_are_spread() -> None:
    rng = np.random.default_rng(3)
    scenes = [sample_scene(rng) for _ in range(300)]
    counts = np.bincount([len(scene.solids) for scene in scenes], minlength=4) / 300
    assert np.allclose(counts[1:], [0.45, 0.40, 0.15], atol=0.09)
    solids = [solid for scene in scenes for solid in scene.solids]
    for name, values in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("material", MATERIALS)):
        shares = [sum(getattr(solid, name) == value for solid in solids) / len(solids) for value in values]
        assert min(shares) > 0.55 / len(values)


@pytest.mark.parametrize("shape", SHAPES + CONCEPTS)
@pytest.mark.parametrize("size", SIZES)
def test_silhouette_boxes_hold_what_is_drawn(shape: str, size: str) -> None:
    for x, z in ((-0.5, 0.6), (0.0, 0.0), (0.4, -0.8)):
        solid = Solid(shape=shape, colour="red", size=size, material="matte", x=x, z=z)
        mask = measure(Scene(solids=(solid,), light="noon"), 96).masks[0]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        drawn = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert np.abs(np.subtract(drawn, silhouette(solid, 96))).max() < 3


def test_count_outside_of_the_world_is_refused() -> None:
    with pytest.raises(DataError, match="1 to 3"):
        sample_scene(np.random.default_rng(0), 4)


@pytest.mark.parametrize(
    ("name", "value"), [("shape", "torus"), ("colour", "pink"), ("size", "large"), ("material", "glossy")]
)
def test_an_edit_changes_one_attribute(name: str, value: str) -> None:
    edited = edit(PAIR, 1, **{name: value})
    assert edited.solids[0] == PAIR.solids[0]
    assert edited.light == PAIR.light
    for attribute in ("shape", "colour", "size", "material", "x", "z"):
        expected = value if attribute == name else getattr(PAIR.solids[1], attribute)
        assert getattr(edited.solids[1], attribute) == expected


def test_edits_of_light_place_and_number() -> None:
    assert edit(PAIR, 0, light="night").solids == PAIR.solids
    swapped = edit(PAIR, 0, position=(1.0, -0.5))
    assert [solid.colour for solid in swapped.solids] == ["blue", "red"]
    assert (swapped.solids[1].x, swapped.solids[1].z) == (1.0, -0.5)
    assert remove(PAIR, 0).solids == (PAIR.solids[1],)


def test_edits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(DataError, match="exactly one"):
        edit(PAIR, 0)
    with pytest.raises(DataError, match="exactly one"):
        edit(PAIR, 0, colour="red", size="large")
    with pytest.raises(DataError, match="solid 2 does not exist"):
        edit(PAIR, 2, colour="red")
    with pytest.raises(DataError, match="the scene has 2"):
        remove(PAIR, -1)
