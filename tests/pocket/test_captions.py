from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from velatura.errors import DataError
from velatura.pocket.captions import ExpectedSolid, caption, caption_full, parse
from velatura.pocket.layout import sample_scene
from velatura.pocket.scenes import Scene, Solid


def solid(words: str, x: float) -> Solid:
    size, colour, material, shape = words.split()
    return Solid(shape=shape, colour=colour, size=size, material=material, x=x, z=0)


CUBE, BALL, CONE = (
    solid("large red matte cube", -0.5),
    solid("small blue glossy sphere", 0.5),
    solid("small orange striped cone", 0.9),
)


@pytest.mark.parametrize(
    ("solids", "expected"),
    [
        ((CUBE,), "a large red matte cube at dusk"),
        ((BALL, CUBE), "a large red matte cube to the left of a small blue glossy sphere at dusk"),
        (
            (CUBE, BALL, CONE),
            f"a {BALL.attributes} between a {CUBE.attributes} on the left and a {CONE.attributes} on the right at dusk",
        ),
    ],
)
def test_canonical_captions(solids: tuple[Solid, ...], expected: str) -> None:
    assert caption_full(Scene(solids=solids, light="dusk")) == expected


@given(seed=st.integers(0, 10**6), leave_out=st.sampled_from([0.0, 0.15, 1.0]))
@settings(max_examples=60, deadline=None)
def test_captions_are_read_back(seed: int, leave_out: float) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    text = caption(scene, rng, leave_out)
    expectation = parse(text)
    assert expectation.ordered
    assert expectation.unknown == ()
    assert expectation.light in ((scene.light,) if leave_out == 0 else (scene.light, None))
    assert len(expectation.solids) == len(scene.solids)
    for read, real in zip(expectation.solids, scene.solids, strict=True):
        assert (read.shape, read.colour) == (real.shape, real.colour)
        assert read.size in ((real.size,) if leave_out == 0 else (real.size, None))
        assert read.material in ((real.material,) if leave_out == 0 else (real.material, None))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_canonical_captions_are_read_back_completely(seed: int) -> None:
    scene = sample_scene(np.random.default_rng(seed))
    expectation = parse(caption_full(scene))
    assert expectation.light == scene.light
    assert expectation.solids == tuple(
        ExpectedSolid(shape=real.shape, colour=real.colour, size=real.size, material=real.material)
        for real in scene.solids
    )


def test_captions_vary_and_stay_short() -> None:
    rng = np.random.default_rng(4)
    scene = Scene(solids=(CUBE, BALL), light="noon")
    texts = {caption(scene, rng) for _ in range(200)}
    assert len(texts) > 60
    assert max(len(text.split()) for text in texts) <= 25


@pytest.mark.parametrize(
    ("text", "left_to_right", "ordered"),
    [
        ("a red cube to the left of a blue sphere", "cube sphere", True),
        ("A red cube to the RIGHT of a blue sphere.", "sphere cube", True),
        ("a cube on the right and a cone on the left", "cone cube", True),
        ("a torus between a cube on the left and a cone on the right", "cube torus cone", True),
        ("a torus between a cube on the right and a cone on the left", "cone torus cube", True),
        ("a torus and a cube", "torus cube", False),
        ("a cube to the left of a cone to the left of a torus", "cube cone torus", True),
    ],
)
def test_relations(text: str, left_to_right: str, ordered: bool) -> None:
    expectation = parse(text)
    assert " ".join(solid.shape for solid in expectation.solids) == left_to_right
    assert expectation.ordered is ordered


def test_what_is_not_said_is_none_and_strange_words_are_reported() -> None:
    expectation = parse("a shiny small snowman at night, cinematic")
    assert expectation.solids == (ExpectedSolid(shape="snowman", size="small"),)
    assert expectation.light == "night"
    assert expectation.unknown == ("shiny", "cinematic")


def test_an_empty_table_is_a_caption() -> None:
    assert parse(caption_full(Scene(solids=(), light="noon"))).solids == ()


def test_a_caption_without_solids_is_refused() -> None:
    with pytest.raises(DataError, match="sphere, cube"):
        parse("a dog on the beach")
