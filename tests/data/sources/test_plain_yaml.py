"""YAML as plain data: what is read, what is refused, and nothing that grows or runs."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from velatura.data.sources.lookup import UnusableError
from velatura.data.sources.plain_yaml import Plain, read_yaml
from velatura.errors import DataError

words = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8)
values = st.recursive(
    words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)


@settings(deadline=None, max_examples=60)
@given(values, st.sampled_from([None, "'", '"']), st.booleans())
def test_what_was_written_is_read(value: Plain, style: str | None, flow: bool) -> None:
    text = yaml.safe_dump(value, default_style=style, default_flow_style=flow, allow_unicode=True)
    assert read_yaml(text, "a.yaml") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# only a comment", None),
        ("a:\nb: ~\nc: null\nd: ''\ne: 'null'", {"a": None, "b": None, "c": None, "d": "", "e": "null"}),
        ("[no, 2023, 1.0, 0x10, 2020-01-01]", ["no", "2023", "1.0", "0x10", "2020-01-01"]),
        ("a: &x [1]\nb: *x", {"a": ["1"], "b": ["1"]}),
        ("x: &x {a: 1, b: 1}\ny: {<<: *x, b: 2}", {"x": {"a": "1", "b": "1"}, "y": {"a": "1", "b": "2"}}),
        ("!!str 5", "5"),
    ],
)
def test_values(text: str, value: Plain) -> None:
    assert read_yaml(text, "a.yaml") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n\tb: 2", "is not YAML in line 2"),
        ("a: [1", "is not YAML in line"),
        ("a: *nothing", r"line 1: '\*nothing' stands for nothing"),
        ("a: &a [*a]", r"'\*a' stands for nothing"),
        ("a: 1\n---\nb: 2", "more than one YAML document"),
        ("a: 1\na: 2", "line 2: the key 'a' is there twice"),
        ("[a]: 1", "line 1: a key is a list"),
        ("<<: 5", "'<<' merges tables; received '5'"),
        ("[" * 30 + "]" * 30, "more than 20 levels"),
        ("[" * 100_000, "."),
        ("a: \x00", "is not YAML"),
        ("a" * 2_000_000, "has 2000000 characters"),
    ],
)
def test_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UnusableError, match=message):
        read_yaml(text, "a.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [true]",
        "!!python/name:os.system",
        "- !!binary aGk=",
        "a: !mine {b: 1}",
    ],
)
def test_tags_are_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"^a.yaml, line 1: the tag '!.*' is refused"):
        read_yaml(text, "a.yaml")


def test_a_bomb_of_aliases_stays_small() -> None:
    """Nine lists of nine times the one before: 9**9 leaves if anything copied them."""
    lines = ["a0: &a0 [lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    merges = [f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}'] * 9)}]}}" for i in range(1, 10)]
    started = time.process_time()
    value = read_yaml("\n".join([*lines, "b0: &b0 {k: v}", *merges]), "a.yaml")
    assert isinstance(value, dict)
    assert value["b9"] == {"k": "v"}
    assert time.process_time() - started < 1
