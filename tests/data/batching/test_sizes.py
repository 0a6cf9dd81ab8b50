from __future__ import annotations

import pytest

from velatura.data.batching.sizes import Sizes
from velatura.errors import RecipeError
from velatura.recipe.data.sources.folder import FolderData


def sizes(width: int, height: int, **keys: object) -> list[tuple[int, int]]:
    return Sizes(FolderData(folder="x", **keys), 16).of(width, height)


def test_one_per_resolution() -> None:
    assert sizes(800, 600, resolution=[512, 256]) == [(576, 448), (288, 224)]


def test_a_fixed_size_that_is_no_square() -> None:
    assert sizes(100, 900, size=[640, 480], buckets=False) == [(640, 480)]
    assert sizes(100, 900, size=[650, 490], buckets=False) == [(640, 480)]


def test_buckets_of_an_area_that_is_no_square() -> None:
    assert sizes(1216, 832, size=[832, 1216], bucket_step=64) == [(1216, 832)]


def test_small_images_keep_their_size_or_are_left_out() -> None:
    assert sizes(300, 200, resolution=[512, 1024], bucket_step=64) == [(640, 384), (1216, 832)]
    assert sizes(300, 200, resolution=[512, 1024], bucket_step=64, upscale="own size") == [(256, 192)]
    assert sizes(300, 200, resolution=[512, 1024], bucket_step=64, upscale=False) == []
    assert sizes(300, 40, resolution=512, bucket_step=64, upscale="own size") == []


def test_as_sd_scripts_chooses() -> None:
    keys = {"resolution": 512, "bucket_step": 64, "bucket_min": 256, "bucket_max": 1024}
    assert sizes(360, 1000, **keys) == [(320, 768)]
    assert sizes(360, 1000, **keys, compat="sd-scripts") == [(256, 832)]


def test_sizes_that_the_model_cannot_have() -> None:
    with pytest.raises(RecipeError, match="bucket_step = 24"):
        sizes(64, 64, resolution=64, bucket_step=24)
    with pytest.raises(RecipeError, match="less than 32 pixels"):
        Sizes(FolderData(folder="x", size=[64, 16], buckets=False), 32)
