"""EveryDream2's own buckets and cuts: its documented examples, and what its rules promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velatura.data.batching.everydream2_compat import (
    assign_as_everydream2,
    everydream2_buckets,
    everydream2_cut,
)
from velatura.data.batching.plan import Entry
from velatura.data.batching.sizes import Sizes
from velatura.data.images import Look
from velatura.data.items import Item, Treatment
from velatura.data.views import drawn_views, views_of
from velatura.draws import Draw
from velatura.errors import RecipeError
from velatura.recipe.data.sources.folder import FolderData

chances = st.lists(st.floats(0, 1, exclude_max=True), min_size=6, max_size=6)
edges = st.integers(64, 5000)


@pytest.mark.parametrize(
    ("image", "bucket"),
    [
        ((800, 600), (576, 448)),
        ((600, 800), (448, 576)),
        ((64, 38), (640, 384)),
        ((580, 580), (512, 512)),
        ((5000, 100), (1024, 256)),
    ],
)
def test_its_examples_at_512(image: tuple[int, int], bucket: tuple[int, int]) -> None:
    sizes = Sizes(FolderData(folder="x", resolution=550, compat="everydream2"), 16)
    assert sizes.of(*image) == [bucket]


@given(st.integers(256, 1151), st.sampled_from([8, 16, 32, 64]))
def test_buckets_are_a_square_and_pairs_of_about_its_area(resolution: int, step: int) -> None:
    buckets = everydream2_buckets(resolution, step)
    edge = resolution // 64 * 64
    assert buckets[0] == (edge, edge)
    assert {(h, w) for w, h in buckets} == set(buckets)
    assert all(0.7 < w * h / edge**2 < 1.15 for w, h in buckets)
    assert all(w % step == h % step == 0 for w, h in buckets)


def test_resolutions_without_a_table() -> None:
    with pytest.raises(RecipeError, match="resolution = 1408 .* has buckets for 256, .*, 1536"):
        everydream2_buckets(1408, 16)
    with pytest.raises(RecipeError, match="leave out bucket_step"):
        Sizes(FolderData(folder="x", compat="everydream2", bucket_step=32), 16)


@given(edges, edges, chances)
def test_a_cut_stays_inside_and_is_small(width: int, height: int, drawn: list[float]) -> None:
    bucket = assign_as_everydream2(width, height, everydream2_buckets(512, 16))
    inset, at = everydream2_cut((width, height), bucket, drawn)
    pixels = [inset[0] * width, inset[1] * height, inset[2] * width, inset[3] * height]
    assert all(0 <= cut <= 0.02 * min(width, height) + 1e-6 for cut in pixels)
    assert all(cut == pytest.approx(round(cut), abs=1e-6) for cut in pixels), "whole pixels"
    if width <= bucket[0] or height <= bucket[1]:
        assert not any(pixels), "nothing is cut off an image that is not larger than its bucket"
    left, top, right, bottom = Look(bucket=bucket, inset=inset, at=at).box(width, height)
    assert inset[0] * width - 1e-6 <= left < right <= width * (1 - inset[2]) + 1e-6
    assert inset[1] * height - 1e-6 <= top < bottom <= height * (1 - inset[3]) + 1e-6
    assert (right - left) / (bottom - top) == pytest.approx(bucket[0] / bucket[1])


def test_the_place_is_triangular() -> None:
    """Of a triangular distribution a quarter of the middle (3/8 to 5/8) holds 7/16, an outer eighth 1/32."""
    places = [
        everydream2_cut((64, 64), (64, 64), [0, 0, 0, 0, (i + 0.5) / 1000, 0])[1][0] for i in range(1000)
    ]
    assert sum(0.375 < x < 0.625 for x in places) / 1000 == pytest.approx(7 / 16, abs=2e-3)
    assert sum(x < 0.125 for x in places) / 1000 == pytest.approx(1 / 32, abs=2e-3)
    assert places == sorted(places)


def test_random_crops_of_a_table_with_compat(make_item: Callable[..., Item]) -> None:
    """Cuts of a square lose a little at the sides, and are not the views of a table without compat."""
    section = FolderData(folder="x", crop="random", crops=3, compat="everydream2")
    item = replace(make_item("a.png", (128, 128)), treatment=Treatment.of(section))
    views = views_of([Entry(item=item, bucket=(64, 64))])
    boxes = [view.look.box(128, 128) for view in views]
    assert len(set(boxes)) == 3
    assert all(0 <= left <= 2 and 126 <= right <= 128 for left, _, right, _ in boxes)
    plain = replace(item, treatment=replace(item.treatment, cut_as_everydream2=False))
    assert not {view.key for view in views} & {
        view.key for view in views_of([Entry(item=plain, bucket=(64, 64))])
    }
    [drawn] = drawn_views([Entry(item=item, bucket=(64, 64))], Draw.of(1), cached=True)
    assert drawn in views
