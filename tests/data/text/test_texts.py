"""Which text a slot uses, and which texts must be encoded ahead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from velatura.data.batching.plan import Entry
from velatura.data.items import Item, Treatment
from velatura.data.places import FilePlace
from velatura.data.text.captions import Caption
from velatura.data.text.texts import (
    drawn_texts,
    drops,
    possible_texts,
    texts_of,
    typical_texts,
    why_texts_change,
)
from velatura.data.text.wording import Wording
from velatura.draws import Draw


def texts(
    captions: list[Any], *, step: int = 5, slots: Any = None, cached: bool = False, dropout: float = 0.0
) -> list[str]:
    draw = Draw.of(3, step=step, slots=range(len(captions)) if slots is None else slots)
    return drawn_texts(captions, draw, dropout=dropout, cached=cached)


def entry(text: str, **options: Any) -> Entry:
    item = Item(
        name=text, place=FilePlace(text), caption=Caption(text=text), width=8, height=8, content=text, source=0,
        treatment=Treatment(wording=Wording(**options)),
    )  # fmt: skip
    return Entry(item=item, bucket=(8, 8))


def test_dropout_depends_on_the_slot_alone() -> None:
    captions = [(Caption(text=str(i)), Wording(), 0) for i in range(1000)]
    whole = texts(captions, dropout=0.2)
    assert 150 < whole.count("") < 250  # 200 expected, deviation 13
    assert texts(captions[500:], slots=range(500, 1000), dropout=0.2) == whole[500:]
    assert texts(captions) == [str(i) for i in range(1000)]


def test_a_source_has_its_own_dropout() -> None:
    always, never = Wording(dropout=1.0), Wording(dropout=0.0)
    captions = [(Caption(text="x"), wording, 0) for wording in (always, never, Wording()) for _ in range(50)]
    found = texts(captions, dropout=0.5)
    assert found[:100] == [""] * 50 + ["x"] * 50
    assert 10 < found[100:].count("") < 40
    assert drops(always, 0.0)
    assert not drops(never, 0.5)
    assert drops(Wording(), 0.5)
    assert drops(Wording(dropout=0.0, dropout_every=3), 0.0)


@pytest.mark.parametrize(("every", "empty"), [(1, [0, 1, 2, 3, 4, 5]), (2, [1, 3, 5]), (3, [2, 5]), (0, [])])
def test_every_n_epochs_all_captions_are_empty(every: int, empty: list[int]) -> None:
    """Epochs count from 1 where people count them: with 2, it is the second, fourth, sixth."""
    wording = Wording(dropout_every=every)
    found = texts([(Caption(text="x"), wording, epoch) for epoch in range(6)])
    assert [epoch for epoch in range(6) if found[epoch] == ""] == empty


def test_texts_are_a_function_of_seed_step_and_slot() -> None:
    moving = (Caption(text="a, b, c, d, e, f"), Wording(shuffle=True, tag_dropout=0.2), 0)
    captions = [moving, (Caption(text="fixed"), Wording(), 0)] * 10
    whole = texts(captions)
    assert texts(captions[6:], slots=range(6, 20)) == whole[6:]
    assert len(set(whole[::2])) > 5
    assert texts(captions, step=6) != whole


def test_variants_are_few_and_all_of_them_are_listed() -> None:
    caption, wording = Caption(text="a, b, c, d, e, f"), Wording(shuffle=True, variants=3)
    ahead = possible_texts(caption, wording)
    assert ahead is not None
    assert len(set(ahead)) == 3
    assert set(texts([(caption, wording, 0)] * 100, cached=True)) == set(ahead)
    assert len(set(texts([(caption, wording, 0)] * 100))) > 50, "an encoder that runs anyway reads fresh ones"
    other = possible_texts(Caption(text="a, b, c, d, e, g"), wording)
    assert other is not None
    assert [text.replace("g", "f") for text in other] != ahead, "another caption is not shuffled the same way"


def test_texts_of_a_run() -> None:
    entries = [entry("a"), entry("x, y, z", shuffle=True, variants=2), entry("b", dropout=0.5)]
    found = texts_of([*entries, entries[0]], 0.0, ["preview", "a"])
    ahead = possible_texts(entries[1].item.caption, entries[1].item.treatment.wording)
    assert ahead is not None
    assert found == ["a", *dict.fromkeys(ahead), "b", "", "preview"]
    assert list(typical_texts(entries).values()) == ["a", "x, y, z", "b"]
    assert list(typical_texts(entries, 2).values()) == ["a", "x, y, z"]


def test_the_reason_why_texts_cannot_be_encoded_ahead() -> None:
    fixed, shuffled = entry("a"), entry("x, y", shuffle=True, tag_dropout=0.1)
    assert why_texts_change([fixed, entry("lonely", shuffle=True)]) is None
    assert why_texts_change([fixed, shuffled, shuffled]) == (
        "1 of 2 captions changes from use to use (shuffle_tags, tag_dropout); "
        "caption_variants would draw a number of texts ahead"
    )
    growing = entry("x, y", warmup_steps=9, variants=4)
    assert "tag_warmup_steps makes them depend on the step" in str(why_texts_change([growing]))
    ahead = replace(shuffled, item=entry("x, y", shuffle=True, variants=2).item)
    assert why_texts_change([ahead]) is None
