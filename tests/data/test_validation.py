from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velatura.data.captions import Caption
from velatura.data.items import Item, Treatment
from velatura.data.places import FilePlace
from velatura.data.validation import split
from velatura.errors import DataError


def items(contents: list[int]) -> list[Item]:
    return [
        Item(
            name=f"{i}",
            place=FilePlace(""),
            caption=Caption(),
            width=1,
            height=1,
            content=f"{content}",
            source=0,
            treatment=Treatment(repeats=4, flip=0.5),
        )
        for i, content in enumerate(contents)
    ]


@given(
    st.lists(st.integers(0, 40), min_size=2).filter(lambda c: len(set(c)) > 1),
    st.floats(0.01, 0.99),
    st.integers(0, 9),
)
def test_nothing_is_on_both_sides(contents: list[int], share: float, seed: int) -> None:
    training, held_out = split(items(contents), share, seed)
    assert not {item.content for item in training} & {item.content for item in held_out}
    assert len(training) + len(held_out) == len(contents)
    assert training
    assert held_out
    different = len(set(contents))
    expected = min(max(round(share * different), 1), different - 1)
    assert len({item.content for item in held_out}) == expected
    assert all(item.treatment.repeats == 1 and item.treatment.flip == 0 for item in held_out)


def test_independent_of_order_and_names() -> None:
    _, one = split(items(list(range(20))), 0.3, 1)
    _, two = split(items(list(reversed(range(20)))), 0.3, 1)
    assert {item.content for item in one} == {item.content for item in two}
    _, other = split(items(list(range(20))), 0.3, 2)
    assert {item.content for item in one} != {item.content for item in other}


def test_edges() -> None:
    training, held_out = split(items([1, 2]), 0.0, 0)
    assert len(training) == 2
    assert held_out == ()
    with pytest.raises(DataError, match="at least 2 different"):
        split(items([1, 1]), 0.5, 0)
