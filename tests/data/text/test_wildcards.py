"""The grammar of `{a|b}`: by hand, and whatever the text is."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velatura.data.text.wildcards import choose, varies


def first(words: Sequence[str]) -> str:
    return words[0]


def last(words: Sequence[str]) -> str:
    return words[-1]


@pytest.mark.parametrize(
    ("text", "with_first", "with_last"),
    [
        ("a {red|blue} cube", "a red cube", "a blue cube"),
        ("{a|b|c}{d|e}", "ad", "ce"),
        ("{a|{b|c}}", "a", "c"),  # nested, closed at once
        ("{x {a|b}|y}", "x a", "y"),
        ("{ {a|b} c|d}", " a c", "d"),
        ("{|a}", "", "a"),
        ("{word}", "word", "word"),
        ("{}", "", ""),
        ("{{plain}}", "{plain}", "{plain}"),
        ("{{a|b}}", "{a|b}", "{a|b}"),  # not a choice
        ("{{{a|b}}}", "{a}", "{b}"),
        ("{a|{{b}}}", "a", "{b}"),  # a plain pair inside a choice
        ("{{a} b}}", "{a} b}", "{a} b}"),
        ("{a|b", "{a|b", "{a|b"),  # never closed
        ("{a|{b|c}", "{a|b", "{a|c"),
        ("a|b}", "a|b}", "a|b}"),
        ("}}{{", "}{", "}{"),
        ("a ||| b", "a ||| b", "a ||| b"),
    ],
)
def test_by_hand(text: str, with_first: str, with_last: str) -> None:
    assert choose(text, first) == with_first
    assert choose(text, last) == with_last


def test_a_choice_is_made_from_the_inside_out_and_from_left_to_right() -> None:
    asked: list[list[str]] = []

    def remember(words: Sequence[str]) -> str:
        asked.append(list(words))
        return words[-1]

    choose("{a|{b|c} d} {e|f}", remember)
    assert asked == [["b", "c"], ["a", "c d"], ["e", "f"]]


WORD = st.text("abc ,.é", min_size=1, max_size=4)
GOOD = st.recursive(
    WORD,
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(
        lambda words: " ".join(["{" + "|".join(words) + "}"])
    ),
    max_leaves=12,
)


@given(st.lists(st.one_of(WORD, GOOD.map(lambda text: f" {text} ")), max_size=5).map(" ".join))
def test_of_a_sound_text_no_brace_and_no_bar_is_left(text: str) -> None:
    spaced = re.sub(r"\{(?=\{)", "{ ", text)  # two that open at once would be a plain brace
    assert not re.search(r"[{}|]", choose(spaced, last))


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    found = choose(text, last)
    if not re.search(r"[{}]", text):
        assert found == text
    assert len(found) <= len(text)
    assert varies(text) or choose(text, first) == found


@given(st.text("{}|a", max_size=30))
def test_braces_in_any_order(text: str) -> None:
    assert varies(text) or choose(text, first) == choose(text, last)
    assert choose(text, last).count("a") <= text.count("a")


def test_long_texts_are_fast() -> None:
    started = time.process_time()
    choose("{a|b} " * 10_000, first)
    choose("{ " * 5_000 + "a|b" + "} " * 5_000, first)
    assert time.process_time() - started < 2
