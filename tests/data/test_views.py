"""Which side and which part a use shows; what is cached is what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from velatura.data.batching.plan import Entry
from velatura.data.items import Item
from velatura.data.views import View, drawn_views, views_of
from velatura.draws import Draw

Make = Callable[..., Item]
BUCKET = (32, 32)


def entry(item: Item) -> Entry:
    return Entry(item=item, bucket=BUCKET)


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("random_crop", [False, True])
def test_with_a_cache_all_views_are_those_that_were_encoded(
    make_item: Make, flip: float, random_crop: bool
) -> None:
    entries = [
        entry(make_item(f"{i}.png", (64, 40), seed=i, flip=flip, random_crop=random_crop, crops=3))
        for i in range(4)
    ]
    encoded = {view.key for view in views_of(entries)}
    assert len(encoded) == 4 * (2 if flip == 0.5 else 1) * (3 if random_crop else 1)
    drawn = {
        view.key
        for step in range(60)
        for view in drawn_views(entries, Draw.of(1, step=step, slots=4), cached=True)
    }
    assert drawn == encoded, "none is missing, and none is encoded in vain"


def test_without_a_cache_random_crops_are_new_each_time(make_item: Make) -> None:
    entries = [entry(make_item("a.png", (128, 32), random_crop=True, crops=2))]
    places = [drawn_views(entries, Draw.of(1, step=step), cached=False)[0].look.at[0] for step in range(200)]
    assert len(set(places)) == 200
    assert 0.4 < sum(places) / 200 < 0.6
    assert min(places) < 0.05
    assert max(places) > 0.95


def test_a_crop_depends_on_the_image_and_its_number_alone(make_item: Make) -> None:
    one, other = make_item("a.png", seed=1), make_item("b.png", seed=2)

    def at(item: Item, crop: int, *, flip: bool = False) -> tuple[float, float]:
        return View(item=item, bucket=BUCKET, crop=crop, flip=flip).look.at

    assert at(one, 0) == (0.5, 0.5)
    assert at(one, 3) == at(replace(one, name="moved"), 3) == at(one, 3, flip=True)
    assert len({at(one, 3), at(one, 4), at(other, 3)}) == 3


def test_items_of_a_batch_are_treated_each_by_its_own_rules(make_item: Make) -> None:
    entries = [
        entry(make_item("plain.png", seed=0)),
        entry(make_item("flipped.png", seed=1, flip=1.0)),
        entry(make_item("cropped.png", seed=2, random_crop=True)),
    ]
    for step in range(20):
        plain, flipped, cropped = drawn_views(entries, Draw.of(3, step=step, slots=3), cached=False)
        assert (plain.flip, plain.crop) == (False, 0)
        assert (flipped.flip, flipped.crop) == (True, 0)
        assert not cropped.flip
        assert cropped.crop > 0


def test_views_are_a_function_of_the_slot(make_item: Make) -> None:
    entries = [entry(make_item(f"{i}.png", seed=i, flip=0.5, random_crop=True)) for i in range(6)]
    whole = drawn_views(entries, Draw.of(1, step=9, slots=range(6)), cached=True)
    assert drawn_views(entries[4:], Draw.of(1, step=9, slots=(4, 5)), cached=True) == whole[4:]
