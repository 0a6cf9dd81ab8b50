from __future__ import annotations

import pytest

from velatura.data.text.captions import caption_from_name, decode_text, read_caption
from velatura.data.text.wording import with_trigger


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


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_zero_bytes_are_no_text(encoding: str) -> None:
    """As UTF-8 they would be letters with nothing between them."""
    data = "a dog".encode(encoding)
    if encoding == "utf-32":
        data = data[4:]
    with pytest.raises(ValueError, match="UTF-16 without its mark; save it as UTF-8"):
        decode_text(data)
