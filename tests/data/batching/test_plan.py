from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from velatura.data.batching.plan import lay_out
from velatura.data.items import Item, Treatment
from velatura.data.places import FilePlace
from velatura.data.text.captions import Caption
from velatura.errors import DataError, RecipeError
from velatura.recipe.data.sources.folder import FolderData


def item(name: str, width: int, height: int, **changes: Any) -> Item:
    repeats = changes.pop("repeats", 1)
    whole = Item(
        name=name,
        place=FilePlace(name),
        caption=Caption(),
        width=width,
        height=height,
        content=name,
        source=0,
        treatment=Treatment(repeats=repeats),
    )
    return replace(whole, **changes)


def sizes(items: list[Item], log: Any, *sections: FolderData) -> list[tuple[str, tuple[int, int], int]]:
    layout = lay_out(items, sections, size_step=16, events=log.events)
    return [(entry.item.name, entry.bucket, entry.repeat) for entry in layout.entries]


def test_each_resolution_and_each_repeat(log: Any) -> None:
    section = FolderData(folder="x", resolution=[512, 256, 512])
    assert sizes([item("a", 800, 600, repeats=2)], log, section) == [
        ("a", (576, 448), 0),
        ("a", (576, 448), 1),
        ("a", (288, 224), 0),
        ("a", (288, 224), 1),
    ]


@pytest.mark.parametrize("repeats", [1e23, float("inf"), 60_000_000])
def test_more_uses_than_can_be_held(log: Any, repeats: float) -> None:
    """As of a folder named `99999999999999999999999_dog`. Counted over all sizes, and with no class images in turn."""
    section = FolderData(folder="x", resolution=[512, 256], compat="sd-scripts")
    classes = replace(item("b", 500, 500).treatment, regularisation=True)
    items = [item("a", 800, 600, repeats=repeats), item("b", 500, 500, treatment=classes)]
    with pytest.raises(
        DataError, match=r"times in an epoch; allowed are 100,000,000 times. Lower repeats: that of a is"
    ):
        sizes(items, log, section)


def test_each_source_has_its_own_sizes(log: Any) -> None:
    one, two = FolderData(folder="x", resolution=256), FolderData(folder="y", resolution=100, buckets=False)
    items = [item("a", 500, 500), item("b", 500, 100, source=1)]
    assert sizes(items, log, one, two) == [("a", (256, 256), 0), ("b", (96, 96), 0)]
    assert any("1 image loses more than a third of the area to cropping: b." in text for text in log.texts)


def test_small_images_are_left_out_and_named(log: Any) -> None:
    section = FolderData(folder="x", resolution=[64, 128], upscale=False)
    items = [item("big", 128, 128), item("middle", 100, 100), item("small", 60, 60)]
    layout = lay_out(items, [section], size_step=16, events=log.events)
    assert [(e.item.name, e.bucket) for e in layout.entries] == [
        ("big", (64, 64)),
        ("big", (128, 128)),
        ("middle", (64, 64)),
    ]
    assert [left.name for left in layout.left_out] == ["small"]
    assert any("small" in text and "left out" in text for text in log.texts)
    with pytest.raises(
        DataError,
        match="no image is left to train on: 1 image is smaller than its resolution and upscale = false",
    ):
        lay_out(items[2:], [section], size_step=16, events=log.events)


def test_a_shorter_edge_below_the_least_size_leaves_an_image_out(log: Any) -> None:
    section = FolderData(folder="x", resolution=64, min_size=50)
    items = [item("just", 50, 300), item("narrow", 49, 300), item("flat", 300, 49)]
    layout = lay_out(items, [section], size_step=16, events=log.events)
    assert {entry.item.name for entry in layout.entries} == {"just"}
    assert [left.name for left in layout.left_out] == ["narrow", "flat"]
    assert any("2 images are too small" in text and "narrow, flat" in text for text in log.texts)


def test_batches_by_tokens(log: Any) -> None:
    """At 16 pixels a token, 128x128 has 64 tokens and 64x64 has 16; a table's own batch size comes first."""
    one = FolderData(folder="x", resolution=[64, 128, 512])
    two = FolderData(folder="y", resolution=64, batch_size=3)
    items = [item("a", 512, 512), item("b", 64, 64, source=1)]
    found = lay_out(items, [one, two], size_step=16, events=log.events, batch_tokens=200).entries
    sizes = {(entry.item.name, entry.bucket[0]): entry.batch_size for entry in found}
    assert sizes == {("a", 64): 12, ("a", 128): 3, ("a", 512): 1, ("b", 64): 3}
    assert any("come one by one: 512x512." in text for text in log.texts)
    assert {e.batch_size for e in lay_out(items, [one, two], size_step=16, events=log.events).entries} == {
        None,
        3,
    }


def test_strong_enlargement_is_remarked(log: Any) -> None:
    sizes([item("tiny", 40, 40)], log, FolderData(folder="x", resolution=128))
    assert "enlarged to more than twice" in log.texts[0]


def test_sizes_that_the_model_cannot_have(log: Any) -> None:
    with pytest.raises(RecipeError, match="bucket_step = 24"):
        sizes([item("a", 64, 64)], log, FolderData(folder="x", resolution=64, bucket_step=24))
    with pytest.raises(RecipeError, match="smaller than one bucket step"):
        sizes([item("a", 64, 64)], log, FolderData(folder="x", resolution=24, bucket_step=32))
    with pytest.raises(DataError, match="no images"):
        sizes([], log, FolderData(folder="x", resolution=64))
