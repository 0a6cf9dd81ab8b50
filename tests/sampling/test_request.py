from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velatura.errors import RecipeError
from velatura.sampling.request import Request, check, parse_line

DEFAULTS = Request(prompt="", steps=20, negative="ugly")


def test_a_line_with_all_options() -> None:
    found = parse_line("a dog, blue --w 1024 --h 768 --d 7 --s 28 --g 3.5 --l 2 --n blurry, dark", DEFAULTS)
    assert found == Request(
        prompt="a dog, blue",
        width=1024,
        height=768,
        seed=7,
        steps=28,
        guidance=3.5,
        cfg=2.0,
        negative="blurry, dark",
    )


def test_a_line_of_options_alone_has_an_empty_prompt() -> None:
    assert parse_line("--w 64 --h 32", DEFAULTS) == replace(DEFAULTS, prompt="", width=64, height=32)


def test_a_line_without_options_and_dashes_within_words() -> None:
    assert parse_line("a dog -- on a beach", DEFAULTS).prompt == "a dog -- on a beach"
    assert parse_line("a well--known dog ", DEFAULTS) == Request(
        prompt="a well--known dog", steps=20, negative="ugly"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a dog --width 5", "unknown option --width; allowed: --w"),
        ("a dog --s many", "--s wants an integer, received 'many'"),
        ("a dog --g high", "--g wants a number, received 'high'"),
        ("a dog --w", "--w wants an integer, received ''"),
        ("--w 64 a dog", "--w wants an integer, received '64 a dog'"),
        ("a dog --w=64", "unknown option --w=64; allowed: --w"),
        ("a dog --w64", "unknown option --w64"),
        ("a dog --no-text", "unknown option --no-text"),
        ("a dog --w 64 --h 64 --w 32", "--w is there twice; allowed: once"),
        ("a" * 200 + " --x 1", f"prompt line '{'a' * 59}…': unknown option --x"),
    ],
)
def test_lines_that_are_refused(line: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_line(line, DEFAULTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 100}, "width must be a multiple of 16, received 100; nearest: 96 or 112"),
        ({"width": 99_999}, "width must be at most 16384, received 99999"),
        ({"height": 0}, "height must be a multiple of 16, received 0; nearest: 16 or 32"),
        ({"steps": 0}, "steps must be 1 to 1000, received 0"),
        ({"strength": 0.0}, "strength must be above 0 and at most 1, received 0.0"),
        ({"strength": math.nan}, "strength must be above 0"),
        ({"seed": -1}, "seed must be 0 to"),
        ({"batch": 0}, "batch must be 1 to 64, received 0"),
        ({"guidance": math.nan}, "guidance must be 0 or more, received nan"),
        ({"cfg": -1.0}, "cfg must be 0 or more, received -1.0"),
        ({"cfg": math.inf}, "cfg must be 0 or more, received inf"),
    ],
)
def test_values_that_no_model_can_paint(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check(Request(prompt="", **changes), 16)
    check(Request(prompt="", width=96, height=112, steps=1, guidance=0.0, cfg=1.0), 16)


# texts as people write them: no run of white space before two dashes, none at the ends
TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=30).map(
    lambda text: " ".join(text.replace("--", "-").split())
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "w": st.integers(-(10**6), 10**6),
    "h": st.integers(0, 10**6),
    "d": st.integers(0, 2**63 - 1),
    "s": st.integers(0, 10**4),
    "g": st.floats(allow_nan=False, allow_infinity=False),
    "l": st.floats(0, 100),
    "n": TEXTS,
}
FIELDS = {
    "w": "width", "h": "height", "d": "seed", "s": "steps", "g": "guidance", "l": "cfg", "n": "negative",
}  # fmt: skip


@given(TEXTS, st.fixed_dictionaries({}, optional=VALUES), st.randoms())
def test_what_is_written_is_read(prompt: str, options: dict[str, Any], random: Any) -> None:
    """In any order of options; what is not written keeps its default."""
    names = list(options)
    random.shuffle(names)
    line = " ".join([prompt or "a", *(f"--{name} {options[name]}" for name in names)])
    expected = {FIELDS[name]: value for name, value in options.items()}
    assert parse_line(line, DEFAULTS) == replace(DEFAULTS, prompt=prompt or "a", **expected)


@given(st.text(max_size=60))
def test_any_line_is_read_or_refused(line: str) -> None:
    with suppress(RecipeError):
        found = parse_line(line, DEFAULTS)
        assert found.prompt == found.prompt.strip()


@given(st.integers(-100, 3000), st.sampled_from([8, 16, 32]))
def test_the_nearest_sizes_that_are_offered_are_allowed(edge: int, step: int) -> None:
    try:
        check(Request(prompt="", width=edge), step)
        assert edge > 0
        assert edge % step == 0
    except RecipeError as error:
        offered = [int(word) for word in str(error).split("nearest: ")[1].split(" or ")]
        for size in offered:
            check(Request(prompt="", width=size), step)
        assert edge <= 0 or min(abs(size - edge) for size in offered) < step
