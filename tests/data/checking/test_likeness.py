"""What looks the same is found; what does not is not; and ten thousand pictures take no time."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest
from PIL import Image, ImageEnhance

from velatura.data.checking.likeness import Likeness, alike, likeness_of

Natural = Callable[..., Image.Image]


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("L")


@pytest.mark.parametrize(
    "change",
    [
        jpeg,
        lambda image: image.resize((97, 97), Image.Resampling.LANCZOS),
        lambda image: image.resize((512, 512), Image.Resampling.BICUBIC),
        lambda image: ImageEnhance.Brightness(image).enhance(1.02),
    ],
    ids=["quality", "smaller", "larger", "brighter"],
)
def test_changed_copies_are_found(natural: Natural, change: Callable[[Image.Image], Image.Image]) -> None:
    pictures = [natural(seed) for seed in range(8)]
    copies = [change(pictures[i]) for i in (2, 5)]
    assert alike([likeness_of(one) for one in [*pictures, *copies]]) == [[2, 8], [5, 9]]


def test_different_and_mirrored_pictures_are_not(natural: Natural) -> None:
    pictures = [natural(seed) for seed in range(40)]
    mirrored = pictures[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert alike([likeness_of(one) for one in [*pictures, mirrored]]) == []


def test_flat_pictures_have_no_likeness() -> None:
    assert likeness_of(Image.new("L", (64, 64), 9)) is None
    assert alike([None, None]) == []


def test_equal_bits_do_not_settle_it() -> None:
    one, other = bytes(range(256)), bytes(reversed(range(256)))
    assert alike([Likeness(hash=5, small=one), Likeness(hash=5, small=other)]) == []
    assert alike([Likeness(hash=5, small=one), Likeness(hash=5 ^ 0b1000000000000011, small=one)]) == [[0, 1]]
    assert alike([Likeness(hash=5, small=one), Likeness(hash=5 ^ 0b1111, small=one)]) == []


def test_many_pictures_with_one_hash_stay_far_from_all_pairs() -> None:
    begun = time.process_time()
    same = [Likeness(hash=7, small=bytes(256))] * 20_000
    assert alike(same) == [list(range(20_000))]
    assert time.process_time() - begun < 60  # all pairs would be 200 million
