from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velatura.data.batching.buckets import assign, crop_loss, default_step, enlarges, make_buckets, own_size
from velatura.errors import RecipeError

resolutions = st.integers(64, 2048)
steps = st.sampled_from([8, 16, 32, 64])


@pytest.mark.parametrize(
    ("resolution", "low", "high", "count"),
    [
        (1024, 256, 2048, 41),
        (1024, 256, 1024, 25),
        (512, 256, 1024, 17),
        (768, 256, 1024, 19),
        (768, 256, 2048, 41),
    ],
)
def test_as_many_as_sd_scripts_has(resolution: int, low: int, high: int, count: int) -> None:
    """The counts that were measured on sd-scripts (reference/kohya-train.md, 1.4)."""
    assert len(make_buckets(resolution, 64, low, high)) == count


# width -> heights, each also turned: measured on sd-scripts with resolution 1024 and 512, reference/kohya-train.md 8.2
AT_1024 = {
    256: [2048], 320: [2048], 384: [2048], 448: [2048], 512: [1856, 1920, 1984, 2048], 576: [1664, 1728, 1792], 640: [1536, 1600], 704: [1408, 1472],
    768: [1280, 1344], 832: [1216], 896: [1152], 960: [1088], 1024: [1024],
}  # fmt: skip
AT_512 = {256: [832, 896, 960, 1024], 320: [704, 768], 384: [640], 448: [576], 512: [512]}


@pytest.mark.parametrize(("resolution", "high", "sizes"), [(1024, 2048, AT_1024), (512, 1024, AT_512)])
def test_the_same_as_sd_scripts_has(resolution: int, high: int, sizes: dict[int, list[int]]) -> None:
    upright = {(width, height) for width, heights in sizes.items() for height in heights}
    turned = {(height, width) for width, height in upright}
    assert set(make_buckets(resolution, 64, 256, high)) == upright | turned


def test_the_square_root_of_an_area() -> None:
    """832 x 1216 has 1,011,712 pixels: its own size fits exactly, and the square is 960 = 64 * floor(1005.8 / 64)."""
    found = make_buckets(math.sqrt(832 * 1216), 64, 256, 2048)
    assert (832, 1216) in found
    assert (960, 960) in found
    assert (1024, 1024) not in found


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


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        (
            (1920, 1080),
            (1344, 768),
        ),  # these three: measured on sd-scripts, reference/kohya-train.md 1.4 and 8.2
        ((300, 200), (256, 192)),
        ((1000, 1000), (960, 960)),
        ((2048, 2048), (1024, 1024)),
        ((63, 500), None),  # there it has 0 pixels
        ((100_000, 20), None),
    ],
)
def test_own_sizes(size: tuple[int, int], bucket: tuple[int, int] | None) -> None:
    assert own_size(*size, 1024 * 1024, 64) == bucket


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(64, 1024), steps)
def test_own_sizes_never_enlarge(width: int, height: int, resolution: int, step: int) -> None:
    found = own_size(width, height, resolution**2, step)
    if found is None:
        assert min(width, height) < step or width * height > resolution**2
        return
    assert found[0] % step == found[1] % step == 0
    assert 0 < found[0] * found[1] <= resolution**2 * 1.1
    assert not enlarges(width, height, found)
