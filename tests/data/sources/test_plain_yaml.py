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


@pytest.mark.parametrize(
    "text",
    [
        f"a: &a {'long text ' * 1000}\nb: [{', '.join(['*a'] * 200)}]",
        "\n".join(
            [
                "b0: &b0 {k: v}",
                *(f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}'] * 9)}]}}" for i in range(1, 10)),
            ]
        ),
        "\n".join(
            ["k0: &k0 [x]", *(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10)}]" for i in range(1, 10))]
        ),
        f"a: &a {{{', '.join(f'k{i}: x' for i in range(2000))}}}\n<<: [{', '.join(['*a'] * 1000)}]",
    ],
    ids=["one text many times", "merges of merges", "lists of lists", "merged tables"],
)
def test_what_aliases_stand_for_counts(text: str) -> None:
    assert len(text) < 2**20
    began = time.process_time()
    with pytest.raises(UnusableError, match="characters, with aliases written out"):
        read_yaml(text, "a.yaml")
    assert time.process_time() - began < 2


def test_aliases_of_aliases_are_no_way_to_any_depth() -> None:
    lines = ["k0: &k0 {caption: x}", *(f"k{i}: &k{i} {{caption: *k{i - 1}}}" for i in range(1, 30))]
    assert read_yaml("\n".join(lines[:15]), "a.yaml")
    with pytest.raises(UnusableError, match="line 19: more than 20 levels"):
        read_yaml("\n".join(lines), "a.yaml")


def test_of_merged_tables_the_first_one_counts() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b]}"
    assert read_yaml(text, "a.yaml")["c"] == {"x": "1", "y": "1", "z": "2"}  # type: ignore[index, call-overload]
