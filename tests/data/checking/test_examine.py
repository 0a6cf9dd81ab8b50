"""Damage is found wherever it is; sharpness is judged by octaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from velatura.data.checking.examine import BLURRY, detail_of, examine
from velatura.data.items import Companion, Item
from velatura.data.places import FilePlace
from velatura.data.scanning.probe import content_hash
from velatura.data.views import View

Make = Callable[..., Item]
Natural = Callable[..., Image.Image]


@pytest.mark.parametrize("seed", range(4))
def test_sharp_enlarged_and_blurred(natural: Natural, seed: int) -> None:
    sharp = natural(seed, 512)
    enlarged = natural(seed, 170).resize((512, 512), Image.Resampling.BICUBIC)
    for image, blurry in [
        (sharp, False),
        (enlarged, True),
        (sharp.filter(ImageFilter.GaussianBlur(2)), True),
    ]:
        detail = detail_of(image)
        assert detail is not None
        assert (detail < BLURRY) == blurry


def test_white_noise_has_four_times_the_area() -> None:
    """The finest octave of white noise covers 3/4 of all frequencies, the next two 3/16 and 3/64."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8)
    assert detail_of(Image.fromarray(noise)) == pytest.approx((3 / 4) / ((3 / 16 + 3 / 64) / 2), rel=0.05)


def test_nothing_to_judge_by(natural: Natural) -> None:
    assert detail_of(Image.new("L", (256, 256), 128)) is None
    assert detail_of(natural(0).resize((16, 16))) is None


def test_a_sound_image(make_item: Make) -> None:
    found = examine(View(item=make_item("a.png"), bucket=(64, 64)))
    assert found.damage is None
    assert found.likeness is not None


def test_damage_in_the_middle(make_item: Make, tmp_path: Any) -> None:
    item = make_item("a.png")
    path = tmp_path / "a.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    found = examine(View(item=replace(item, content=content_hash(bytes(data))), bucket=(64, 64)))
    assert found.damage is not None
    assert "a.png is damaged" in found.damage


def test_damage_in_a_companion(make_item: Make, write_image: Any) -> None:
    path = write_image("masks/a.png")
    path.write_bytes(path.read_bytes()[:-30])
    mask = Companion(place=FilePlace(str(path)), content=content_hash(path.read_bytes()), width=64, height=64)
    found = examine(View(item=make_item("a.png", companions={"mask": mask}), bucket=(64, 64)))
    assert found.damage is not None
    assert "mask image of a.png" in found.damage
