from __future__ import annotations

import pytest

from velatura.data.captions import Caption, caption_from_name, read_caption
from velatura.data.wording import Wording, drawn_texts, with_trigger
from velatura.draws import Draw


@pytest.mark.parametrize(
    ("trigger", "caption", "whole"),
    [
        (None, "a dog", "a dog"),
        ("sks", "a dog", "sks, a dog"),
        ("sks", "", "sks"),
        ("sks", "sks", "sks"),
        ("sks", "sks dog", "sks dog"),
        ("a", "apple", "a, apple"),
        (None, "", ""),
    ],
)
def test_trigger(trigger: str | None, caption: str, whole: str) -> None:
    assert with_trigger(trigger, caption) == whole


def test_read_caption() -> None:
    assert read_caption(b"one\r\n\r\n two\t three \n").text == "one\ntwo three"
    guessed = read_caption(b"caf\xe9 \x81")  # 0x81 is no letter in Windows-1252
    assert (guessed.text, guessed.origin) == ("café \x81", "guessed")


def test_name() -> None:
    assert caption_from_name("sub/a_red_fox.v2.png").text == "a red fox.v2"


def test_dropout_depends_on_the_slot_alone() -> None:
    captions = [(Caption(text=str(i)), Wording(), 0) for i in range(1000)]

    def texts(part: slice, dropout: float) -> list[str]:
        draw = Draw.of(3, step=5, slots=range(1000)[part])
        return drawn_texts(captions[part], draw, dropout=dropout, cached=False)

    whole = texts(slice(None), 0.2)
    dropped = sum(text == "" for text in whole)
    assert 150 < dropped < 250  # 200 expected, deviation 13
    assert texts(slice(500, None), 0.2) == whole[500:]
    assert texts(slice(None), 0.0) == [str(i) for i in range(1000)]
