"""From captions to texts: the order of sd-scripts, weighted tags, and what holds for every caption."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velatura.data.text.captions import Caption
from velatura.data.text.wording import Wording, is_fixed, text_of
from velatura.recipe.data.captions import Captioning


def chance(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def text(caption: str, seed: int | None = None, **options: Any) -> str:
    step = options.pop("step", None)
    drawn = None if seed is None else chance(seed)
    return text_of(Caption(text=caption), Wording(**options), drawn, step=step)


def tags_of(text: str) -> list[str]:
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def test_every_key_of_the_recipe_is_heard() -> None:
    """Each key, set to something else than its default, changes the wording, and no two the same field."""
    others: dict[str, Any] = {
        "trigger": "sks", "caption_prefix": "p", "caption_suffix": "s", "caption_dropout": 0.5,
        "caption_dropout_every": 2, "wildcards": True, "caption_lines": "first",
        "tag_separator": ";", "shuffle_tags": True, "keep_tags": 1,
        "keep_tags_separator": "|||", "secondary_separator": ";;;", "tag_dropout": 0.5, "tag_warmup_steps": 9,
        "tag_warmup_min": 3, "max_caption_length": 50, "caption_variants": 4,
    }  # fmt: skip
    assert others.keys() == Captioning.model_fields.keys()
    made = {Wording.of(Captioning(**{key: value})) for key, value in others.items()}
    assert len(made | {Wording()}) == len(others) + 1


def test_the_first_tags_stay_and_the_others_move() -> None:
    seen = {text("a, b, c, d, e", seed, shuffle=True, keep=2) for seed in range(200)}
    assert seen == {f"a, b, {x}, {y}, {z}" for x, y, z in permuted("cde")}


def permuted(letters: str) -> list[tuple[str, ...]]:
    from itertools import permutations

    return list(permutations(letters))


def test_separators_mark_a_fixed_head_and_a_fixed_end() -> None:
    options = {"shuffle": True, "keep": 4, "keep_separator": "|||"}
    seen = {text("a, b ||| c, d ||| e, f", seed, **options) for seed in range(50)}
    assert seen == {"a, b, c, d, e, f", "a, b, d, c, e, f"}
    assert {text("a, b ||| c, d", seed, **options) for seed in range(50)} == {"a, b, c, d", "a, b, d, c"}


def test_the_separator_never_stays_in_the_text() -> None:
    assert text("a, b ||| c ||| d", keep_separator="|||") == "a, b, c, d"
    assert text("a ||| b ||| c ||| d", 1, keep_separator="|||", shuffle=True) == "a, b, c, d"
    assert text("no mark , here", keep_separator="|||") == "no mark , here"


def test_a_secondary_separator_keeps_tags_together() -> None:
    """As sd-scripts' documentation has it: `sky;;;cloud;;;day` is one tag, and becomes `sky,cloud,day` at last."""
    options = {"shuffle": True, "keep": 1, "secondary_separator": ";;;"}
    seen = {text("a, sky;;;cloud;;;day, b", seed, **options) for seed in range(50)}
    assert seen == {"a, sky,cloud,day, b", "a, b, sky,cloud,day"}
    assert text("sky;;;day", secondary_separator=";;;") == "sky,day"
    assert {text("a, x;;;y", s, tag_dropout=0.5, secondary_separator=";;;") for s in range(60)} == {
        "a, x,y", "a", "x,y", ""
    }  # fmt: skip


def test_prefix_and_suffix_stand_around_the_caption_and_take_part() -> None:
    assert text("a dog", prefix="photo of", suffix="in rain") == "photo of a dog in rain"
    assert text("", prefix="photo", suffix="rain") == "photo rain"
    seen = {text("b, c", s, prefix="sks |||", shuffle=True, keep_separator="|||") for s in range(50)}
    assert seen == {"sks, b, c", "sks, c, b"}


def test_a_trigger_stays_in_front() -> None:
    for caption in ("a, b", "sks, a, b"):
        assert {text(caption, s, trigger="sks", shuffle=True) for s in range(50)} == {
            "sks, a, b",
            "sks, b, a",
        }
    found = {text("a, b", s, trigger="sks", prefix="photo,", shuffle=True) for s in range(50)}
    assert found == {"photo, sks, a, b", "photo, sks, b, a"}
    assert {text("a, b, c", s, trigger="sks", keep=2, shuffle=True) for s in range(50)} == {
        "sks, a, b, c", "sks, a, c, b"
    }  # fmt: skip


@pytest.mark.parametrize(("step", "count"), [(0, 2), (24, 2), (25, 3), (99, 5), (100, 6), (1000, 6)])
def test_tags_grow_in(step: int, count: int) -> None:
    """floor(step (n - least) / steps) + least of the 6 tags that may move: 2 at 0, a third one from step 25 on."""
    found = text("k, a, b, c, d, e, f", 3, keep=1, warmup_steps=100, warmup_min=2, step=step)
    assert found == ", ".join("kabcdef"[: 1 + count])


def test_tags_grow_in_even_where_there_are_fewer_than_the_first_ones() -> None:
    assert text("a, b", 0, warmup_steps=10, warmup_min=5, step=0) == "a, b"
    assert text("a, b", 0, warmup_steps=10, warmup_min=5, step=9) == "a, b"
    assert text("a, b", 0, warmup_steps=10, warmup_min=0, step=0) == ""


def test_dropped_tags_are_as_many_as_asked_and_never_fixed_ones() -> None:
    caption = ", ".join(["k", *(f"t{i}" for i in range(2000))])
    found = tags_of(text(caption, 1, keep=1, tag_dropout=0.25))
    assert found[0] == "k"
    assert 1420 < len(found) < 1580  # 1500 expected, deviation 19
    assert found == sorted(found, key=lambda tag: -1 if tag == "k" else int(tag[1:]))


def test_of_several_lines_one_is_chosen_only_with_wildcards() -> None:
    assert text("one\ntwo") == "one two"
    options = {"wildcards": True, "trigger": "sks", "suffix": "end"}
    assert {text("one\ntwo {a|b}", seed, **options) for seed in range(50)} == {
        "sks, one end",
        "sks, two a end",
        "sks, two b end",
    }
    assert text("{a|b} c") == "{a|b} c"


def test_every_word_of_a_choice_is_as_likely() -> None:
    counts = Counter(text("{a|b|c}", seed, wildcards=True) for seed in range(3000))
    assert all(850 < counts[word] < 1150 for word in "abc")  # 1000 expected, deviation 26


def weighted(*tags: tuple[str, float], limit: int | None = None, main: str = "main, prompt") -> Caption:
    return Caption(text=main, tags=tags, max_length=limit)


def test_tags_with_weights_follow_their_text_the_heavy_ones_first() -> None:
    caption = weighted(("light", 0.5), ("heavy", 2.0), ("mid", 1.0))
    assert text_of(caption, Wording()) == "main, prompt, heavy, mid, light"
    assert text_of(caption, Wording(suffix="end")) == "main, prompt, heavy, mid, light, end"
    assert text_of(weighted(("a", 1), main=""), Wording(trigger="sks")) == "sks, a"
    kept = {text_of(caption, Wording(shuffle=True, keep=1), chance(seed)) for seed in range(50)}
    assert kept == {"main, prompt, heavy, mid, light", "main, prompt, heavy, light, mid"}


def test_the_first_tag_is_drawn_in_proportion_to_its_weight() -> None:
    """Without putting back: of weights 3, 1, 1 the first is heavy with 3/5, and light before heavy second with 1/4."""
    caption = weighted(("h", 3.0), ("x", 1.0), ("y", 1.0), main="")
    orders = Counter(text_of(caption, Wording(shuffle=True), chance(seed)) for seed in range(4000))
    first = Counter[str]()
    for order, count in orders.items():
        first[order[0]] += count
    assert first["h"] / 4000 == pytest.approx(3 / 5, abs=0.04)  # deviation 0.008
    assert orders["x, y, h"] / first["x"] == pytest.approx(1 / 4, abs=0.06)


def test_length_is_kept_at_the_borders_of_tags() -> None:
    caption = weighted(("aaaa", 3), ("bbbb", 2), ("cc", 1), limit=16, main="main")
    assert text_of(caption, Wording()) == "main, aaaa, bbbb"  # exactly 16; theirs would overshoot by one
    assert text_of(caption, Wording(max_length=15)) == "main, aaaa"
    assert text_of(caption, Wording(max_length=3)) == "main", "what is fixed is never cut"
    assert text("one, two, three", max_length=9) == "one, two"
    assert text("1,000 cats", max_length=50) == "1,000 cats", "what is short enough is not touched"
    assert text("a, b, c | z", keep_separator="|", max_length=4) == "a, b, c"
    assert text("a |b, c, d| z", keep_separator="|", max_length=7) == "a, b, z"


WORDS = st.text(
    st.characters(exclude_characters=",|;{}\n", exclude_categories=("Cs", "Z", "C")), min_size=1, max_size=8
)
TAGS = st.lists(WORDS, max_size=12)


@given(TAGS, st.integers(0, 5), st.integers(0, 2**32))
def test_shuffling_keeps_every_tag_and_the_first_in_place(tags: list[str], keep: int, seed: int) -> None:
    found = tags_of(text(", ".join(tags), seed, shuffle=True, keep=keep))
    assert Counter(found) == Counter(tags)
    assert found[:keep] == tags[:keep]


@given(TAGS, TAGS, TAGS, st.integers(0, 2**32))
def test_between_separators_the_same_tags_are_left(
    a: list[str], b: list[str], c: list[str], seed: int
) -> None:
    caption = " ||| ".join(", ".join(part) for part in (a, b, c))
    found = tags_of(text(caption, seed, shuffle=True, keep_separator="|||"))
    assert found[: len(a)] == a
    assert found[len(found) - len(c) :] == c
    assert Counter(found[len(a) : len(a) + len(b)]) == Counter(b)


OPTIONS = st.builds(
    Wording,
    trigger=st.none() | WORDS,
    prefix=st.none() | WORDS,
    suffix=st.none() | WORDS,
    wildcards=st.booleans(),
    separator=st.sampled_from([",", ";", " ", ", "]),
    shuffle=st.booleans(),
    keep=st.integers(0, 3),
    keep_separator=st.none() | st.just("|||"),
    secondary_separator=st.none() | st.just(";;"),
    tag_dropout=st.sampled_from([0.0, 0.5, 1.0]),
    warmup_steps=st.sampled_from([0, 10]),
    warmup_min=st.integers(0, 3),
    max_length=st.none() | st.integers(1, 30),
)
CAPTIONS = st.builds(
    Caption,
    text=st.text() | st.text("ab,|{};\n ", max_size=40),
    tags=st.lists(st.tuples(st.text(max_size=5), st.floats(0, 10)), max_size=4).map(tuple),
    max_length=st.none() | st.integers(1, 30),
)


@given(CAPTIONS, OPTIONS, st.integers(0, 20))
def test_any_caption_has_a_text_and_the_same_one_for_the_same_draw(
    caption: Caption, wording: Wording, step: int
) -> None:
    def drawn(seed: int) -> str:
        return text_of(caption, wording, chance(seed), step=step)

    assert drawn(1) == drawn(1)
    assert isinstance(text_of(caption, wording), str)
    if wording.keep_separator and not wording.wildcards and not caption.tags:
        assert "|||" not in drawn(1)
    if is_fixed(caption, wording):
        assert {drawn(seed) for seed in range(4)} == {text_of(caption, wording)}


@pytest.mark.parametrize(
    ("caption", "options", "fixed"),
    [
        ("a, b", {}, True),
        ("a, b", {"shuffle": True}, False),
        ("a, b", {"shuffle": True, "keep": 1}, True),  # one tag alone cannot move
        ("a, b", {"tag_dropout": 0.1, "keep": 1}, False),
        ("a, b", {"tag_dropout": 0.1, "keep": 2}, True),
        ("a ||| b ||| c", {"shuffle": True, "keep_separator": "|||"}, True),
        ("a", {"warmup_steps": 5}, False),
        ("", {"shuffle": True, "tag_dropout": 0.5}, True),
        ("{a|b}", {}, True),
        ("{a|b}", {"wildcards": True}, False),
        ("{a}", {"wildcards": True}, True),
        ("a\nb", {"wildcards": True}, False),
    ],
)
def test_which_captions_are_fixed(caption: str, options: dict[str, Any], fixed: bool) -> None:
    assert is_fixed(Caption(text=caption), Wording(**options)) == fixed


LONG: list[tuple[str, Callable[[], Caption]]] = [
    ("words", lambda: Caption(text="word " * 10_000)),
    ("tags", lambda: Caption(text="word, " * 10_000)),
    ("weighted", lambda: Caption(tags=tuple((f"t{i}", i % 7) for i in range(10_000)))),
    ("choices", lambda: Caption(text="{a|b}, " * 10_000)),
]


@pytest.mark.parametrize(("kind", "make"), LONG, ids=[kind for kind, _ in LONG])
def test_ten_thousand_words_are_fast(kind: str, make: Callable[[], Caption]) -> None:
    wording = Wording(shuffle=True, tag_dropout=0.1, wildcards=True, max_length=1000, keep=1)
    caption, started = make(), time.process_time()
    for seed in range(5):
        assert len(text_of(caption, wording, chance(seed))) <= 1000 or kind == "words"
    assert time.process_time() - started < 3
