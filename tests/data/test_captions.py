from __future__ import annotations

from pathlib import Path

import pytest

from velatura.data.captions import caption_from_name, prompts_for, read_caption, with_trigger
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


def test_read_caption(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\n\r\n two\t three \n")
    assert read_caption(path).text == "one two three"
    path.write_bytes(b"caf\xe9 \x81")  # 0x81 is no letter in Windows-1252
    assert read_caption(path).text == "café \x81"
    assert read_caption(path).origin == "guessed"


def test_name() -> None:
    assert caption_from_name("sub/a_red_fox.v2.png") == "a red fox.v2"


def test_dropout_depends_on_the_slot_alone() -> None:
    captions = [str(i) for i in range(1000)]
    whole = prompts_for(captions, Draw.of(3, step=5, slots=1000), 0.2)
    dropped = sum(prompt.text == "" for prompt in whole)
    assert 150 < dropped < 250  # 200 expected, deviation 13
    half = prompts_for(captions[500:], Draw.of(3, step=5, slots=range(500, 1000)), 0.2)
    assert half == whole[500:]
    assert [p.text for p in prompts_for(captions, Draw.of(3, step=5, slots=1000), 0.0)] == captions
