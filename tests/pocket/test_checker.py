from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from velatura.errors import DataError
from velatura.pocket.captions import caption_full, parse
from velatura.pocket.checker import ATTRIBUTES, Score, check, score
from velatura.pocket.dataset import ConceptSource
from velatura.pocket.layout import sample_scene
from velatura.pocket.reading import read_scene
from velatura.pocket.renderer import Image as Pixels
from velatura.pocket.renderer import draw
from velatura.pocket.scenes import Scene, Solid, edit, remove

PAIR = Scene(
    solids=(
        Solid(shape="cube", colour="red", size="large", material="matte", x=-0.6, z=0.2),
        Solid(shape="sphere", colour="blue", size="small", material="glossy", x=0.6, z=-0.4),
    ),
    light="dusk",
)


def as_it_is(image: Pixels, rng: np.random.Generator) -> Pixels:
    return image


def blurred_noisy_jpeg(image: Pixels, rng: np.random.Generator) -> Pixels:
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.7)), dtype=float)
    noisy = np.clip(blurred + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file).convert("RGB"))


def coarse_and_tinted(image: Pixels, rng: np.random.Generator) -> Pixels:
    """What an autoencoder with few channels does: 60 pixels of detail, colours off by some percent."""
    small = Image.fromarray(image).resize((60, 60), Image.Resampling.BOX)
    large = np.asarray(small.resize((96, 96), Image.Resampling.BICUBIC), dtype=float)
    tinted = large * rng.uniform(0.93, 1.05, 3) + rng.normal(0, 3, image.shape)
    return np.clip(tinted, 0, 255).astype(np.uint8)


def measured(count: int, seed: int, spoil: Callable[[Pixels, np.random.Generator], Pixels]) -> Score:
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, split="held-out") for _ in range(count)]
    return score([spoil(draw(scene), rng) for scene in scenes], [caption_full(scene) for scene in scenes])


@pytest.mark.parametrize("spoil", [as_it_is, blurred_noisy_jpeg, coarse_and_tinted])
def test_reads_a_few_scenes(spoil: Callable[[Pixels, np.random.Generator], Pixels]) -> None:
    found = measured(9, 21, spoil)
    assert all(found.overall[name].share >= 0.9 for name in ATTRIBUTES), found.table()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "least"), [(as_it_is, 0.99), (blurred_noisy_jpeg, 0.97), (coarse_and_tinted, 0.97)]
)
def test_reads_held_out_scenes(spoil: Callable[[Pixels, np.random.Generator], Pixels], least: float) -> None:
    found = measured(300, 1234, spoil)
    print(found.table())
    assert all(found.overall[name].share >= least for name in ATTRIBUTES), found.table()


@pytest.mark.parametrize("concept", ["snowman", "mushroom"])
def test_reads_concepts(concept: str) -> None:
    source = ConceptSource(seed=4, concept=concept)
    scenes = [source.scene(index) for index in range(4)]
    rng = np.random.default_rng(0)
    images = [blurred_noisy_jpeg(draw(scene), rng) for scene in scenes]
    assert score(images, [caption_full(scene) for scene in scenes]).everything.share == 1


def test_an_ordinary_solid_is_no_snowman() -> None:
    scene = remove(PAIR, 0)
    result = check(draw(scene), "a small blue glossy snowman at dusk")
    assert [mark.attribute for mark in result.marks if not mark.right] == ["shape"]


@pytest.mark.parametrize(
    ("edited", "wrong"),
    [
        (PAIR, []),
        (edit(PAIR, 0, colour="green"), ["colour"]),
        (edit(PAIR, 1, shape="cone"), ["shape"]),
        (edit(PAIR, 1, material="striped"), ["material"]),
        (edit(PAIR, 1, size="large"), ["size"]),
        (edit(PAIR, 0, light="night"), ["light"]),
        (edit(PAIR, 0, position=(1.0, 0.8)), ["left_right"]),
        (remove(PAIR, 1), ["colour", "shape", "size", "material", "count", "left_right"]),
    ],
)
def test_marks_what_was_changed_and_nothing_else(edited: Scene, wrong: list[str]) -> None:
    result = check(draw(edited), caption_full(PAIR))
    assert [mark.attribute for mark in result.marks if not mark.right] == wrong
    assert result.right is not bool(wrong)


def test_only_what_is_stated_is_marked() -> None:
    result = check(draw(PAIR), parse("a cube next to a blue thing, a sphere"))
    assert {(mark.attribute, mark.solid) for mark in result.marks} == {
        ("shape", 0), ("shape", 1), ("count", None), ("colour", 1),
    }  # fmt: skip


def test_an_empty_table_reads_as_empty() -> None:
    for light in ("noon", "dusk", "night"):
        reading = read_scene(draw(Scene(solids=(), light=light)))
        assert (reading.solids, reading.light) == ((), light)


def test_touching_solids_are_told_apart() -> None:
    scene = Scene(
        solids=(
            Solid(shape="cube", colour="green", size="large", material="striped", x=-0.55, z=0.1),
            Solid(shape="sphere", colour="orange", size="large", material="matte", x=0.45, z=0.1),
        ),
        light="noon",
    )
    assert check(draw(scene), caption_full(scene)).right


def test_a_picture_without_a_table_shows_no_solids() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    for image in (noise, np.full((64, 64, 3), 255, dtype=np.uint8)):
        assert read_scene(image).solids == ()


def test_other_sizes_are_read() -> None:
    assert check(draw(PAIR, 128), caption_full(PAIR)).right


def test_score_counts_by_hand() -> None:
    ball = remove(PAIR, 0)
    captions = [caption_full(PAIR), caption_full(ball), caption_full(edit(ball, 0, colour="red"))]
    found = score([draw(PAIR), draw(ball), draw(ball)], captions)
    assert (found.pictures, found.everything.right, found.everything.stated) == (3, 2, 3)
    assert (found.overall["colour"].right, found.overall["colour"].stated) == (3, 4)
    assert (found.one_solid["colour"].right, found.one_solid["colour"].stated) == (1, 2)
    assert (found.two_solids["left_right"].right, found.two_solids["left_right"].stated) == (1, 1)
    assert found.one_solid["left_right"].stated == 0
    assert "75.0% of    4" in found.table()
    assert json.loads(found.to_json())["overall"]["colour"] == {"right": 3, "stated": 4}


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="1 picture but 2 captions"):
        score([draw(PAIR)], ["a cube", "a cone"])
    with pytest.raises(DataError, match="uint8"):
        read_scene(np.zeros((96, 96, 3)))  # type: ignore[arg-type]
