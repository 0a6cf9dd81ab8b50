from __future__ import annotations

from typing import Any

import pytest

from velatura.data.batching.order import BatchPlan
from velatura.data.batching.plan import lay_out
from velatura.data.batching.regularisation import balanced_repeats
from velatura.data.items import Item, Treatment
from velatura.data.places import FilePlace
from velatura.data.text.captions import Caption
from velatura.recipe.data.sources.folder import FolderData


def item(name: str, source: int, repeats: float = 1, *, regularisation: bool = False) -> Item:
    return Item(
        name=name, place=FilePlace(name), caption=Caption(), width=64, height=64, content=name, source=source,
        treatment=Treatment(repeats=repeats, regularisation=regularisation),
    )  # fmt: skip


def tables(*datasets: str, compat: str | None = None) -> list[FolderData]:
    return [FolderData(folder="x", dataset=name, compat=compat, resolution=64) for name in datasets]


def classes(source: int, *repeats: float) -> list[Item]:
    return [
        item(f"class {source}.{i}", source, count, regularisation=True) for i, count in enumerate(repeats)
    ]


def test_as_often_together_as_the_others() -> None:
    items = [item("a", 0, 4), item("b", 0, 6), *classes(1, 1, 1, 3)]
    assert balanced_repeats(items, tables("", "")) == pytest.approx([4, 6, 2, 2, 6])


def test_each_dataset_for_itself() -> None:
    items = [item("a", 0, 4), *classes(1, 1, 1), item("b", 2, 3), *classes(3, 1)]
    assert balanced_repeats(items, tables("one", "one", "two", "two")) == [4, 2, 2, 3, 3]
    assert balanced_repeats(items, tables("", "", "", "")) == pytest.approx([4, 7 / 3, 7 / 3, 3, 7 / 3])


def test_nothing_to_stand_beside() -> None:
    assert balanced_repeats(classes(0, 2, 1), tables("")) == [2, 1]


@pytest.mark.parametrize(
    ("train", "own", "uses"),
    [
        (10, (3, 1), (6, 4)),  # 4 in the first pass, then one more for each in turn until there are 10
        (5, (3, 1), (4, 1)),
        (3, (1, 1, 1, 1), (1, 1, 1, 0)),  # there are enough: the rest is never used
        (4, (3, 3), (3, 3)),  # an image comes with all of its repeats
    ],
)
def test_counted_out_as_sd_scripts_does(train: int, own: tuple[int, ...], uses: tuple[int, ...]) -> None:
    """By hand from the rule in reference/kohya-train.md, 1.3."""
    items = [item("a", 0, train), *classes(1, *own)]
    assert balanced_repeats(items, tables("", "", compat="sd-scripts"))[1:] == list(uses)


def test_of_too_many_all_have_their_turn(log: Any) -> None:
    """4 of 10 class images in each epoch, and all of them equally often in 5 epochs."""
    items = [item(f"a{i}", 0, 2) for i in range(2)] + classes(1, *[1] * 10)
    layout = lay_out(items, tables("", ""), size_step=16, events=log.events)
    plan = BatchPlan(layout.entries, batch_size=1, seed=3)
    seen = [batch[0].entry.item for step in range(8 * 5) for batch in plan.micro_batches(step)]
    for epoch in range(5):
        assert sum(one.treatment.regularisation for one in seen[epoch * 8 : epoch * 8 + 8]) == 4
    assert {[one.name for one in seen].count(one.name) for one in items[2:]} == {2}


def test_unused_ones_are_told(log: Any) -> None:
    items = [item("a", 0), *classes(1, 1, 1, 1)]
    lay_out(items, tables("", "", compat="sd-scripts"), size_step=16, events=log.events)
    assert log.texts == [
        "2 regularisation images are more than needed, and never used: class 1.1, class 1.2."
    ]
