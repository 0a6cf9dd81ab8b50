from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velatura.data.buckets import assign, crop_loss, default_step, enlarges, make_buckets
from velatura.errors import RecipeError

resolutions = st.integers(64, 2048)
steps = st.sampled_from([8, 16, 32, 64])


@pytest.mark.parametrize(
    ("resolution", "low", "high", "count"),
    [(1024, 256, 2048, 41), (1024, 256, 1024, 25), (512, 256, 1024, 17)],
)
def test_as_many_as_sd_scripts_has(resolution: int, low: int, high: int, count: int) -> None:
    """The counts that were measured on sd-scripts (reference/kohya-train.md, 1.4)."""
    assert len(make_buckets(resolution, 64, low, high)) == count


@given(resolutions, steps)
def test_areas_and_edges(resolution: int, step: int) -> None:
    buckets = make_buckets(resolution, step)
    assert len(set(buckets)) == len(buckets)
    square = resolution // step * step
    assert (square, square) in buckets
    for width, height in buckets:
        assert width % step == 0
        assert height % step == 0
        assert 0 < width * height <= resolution * resolution
        assert (height, width) in buckets


@given(st.integers(256, 1536), st.floats(0.3, 3.2), st.integers(100, 6000))
def test_little_is_cropped_and_nothing_distorted(resolution: int, ratio: float, width: int) -> None:
    """Next neighbours differ by at most two steps in one edge: so much may be lost, not more."""
    step = default_step(resolution, 16)
    height = max(1, round(width / ratio))
    bucket = assign(width, height, make_buckets(resolution, step))
    assert crop_loss(width, height, bucket) <= 2 * step / (resolution / 2) + 1e-9
    assert abs(math.log(bucket[0] / bucket[1]) - math.log(width / height)) < 0.5


def test_nearest_on_a_logarithmic_scale() -> None:
    buckets = make_buckets(1024, 64)
    assert assign(1920, 1080, buckets) == (1344, 768)
    assert assign(1080, 1920, buckets) == (768, 1344)
    assert assign(500, 500, buckets) == (1024, 1024)
    assert assign(30000, 100, buckets) == (2048, 512)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_turned_images_get_the_turned_bucket(width: int, height: int) -> None:
    buckets = make_buckets(512, 64)
    across, upright = assign(width, height, buckets), assign(height, width, buckets)
    assert crop_loss(width, height, across) == pytest.approx(crop_loss(height, width, upright))


def test_crop_loss_by_hand() -> None:
    assert crop_loss(200, 100, (64, 64)) == pytest.approx(0.5)
    assert crop_loss(100, 100, (64, 64)) == 0
    assert crop_loss(300, 200, (1216, 832)) == pytest.approx(1 - (1216 / 832) / 1.5)


def test_enlarging() -> None:
    assert enlarges(63, 100, (64, 64))
    assert not enlarges(64, 64, (64, 64))


def test_default_steps() -> None:
    assert [default_step(edge, 16) for edge in (1024, 512, 511, 256, 255, 96)] == [64, 64, 32, 32, 16, 16]
    assert default_step(256, 48) == 48
    assert default_step(512, 48) == 96


def test_too_small() -> None:
    with pytest.raises(RecipeError, match="32 or more"):
        make_buckets(24, 32)
