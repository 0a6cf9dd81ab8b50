from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velatura.data.batching.buckets import assign, make_buckets
from velatura.data.batching.compat_buckets import assign_as_sd_scripts

AT_1024 = make_buckets(1024, 64, 256, 2048)
AT_512 = make_buckets(512, 64, 256, 1024)


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((1920, 1080), (1344, 768)),
        ((1080, 1920), (768, 1344)),
        ((300, 200), (1216, 832)),
        ((4000, 1000), (2048, 512)),
    ],
)
def test_what_sd_scripts_chooses(size: tuple[int, int], bucket: tuple[int, int]) -> None:
    """Measured there: reference/kohya-train.md, 1.4 and 8.2."""
    assert assign_as_sd_scripts(*size, AT_1024) == bucket


def test_the_difference_of_ratios_is_not_that_of_their_logarithms() -> None:
    """0.36 is 0.052 from 256/832 and 0.057 from 320/768, but a factor of 1.170 from one and 1.157 from the other."""
    assert assign_as_sd_scripts(360, 1000, AT_512) == (256, 832)
    assert assign(360, 1000, AT_512) == (320, 768)
    assert assign_as_sd_scripts(1000, 360, AT_512) == assign(1000, 360, AT_512) == (768, 320)


def test_of_equally_near_ones_the_first_in_order() -> None:
    assert assign_as_sd_scripts(100, 100, [(512, 512), (256, 256)]) == (256, 256)
    assert assign(100, 100, [(512, 512), (256, 256)]) == (512, 512)


@given(st.sampled_from(AT_1024))
def test_a_bucket_is_its_own(bucket: tuple[int, int]) -> None:
    assert assign_as_sd_scripts(*bucket, AT_1024) == bucket
