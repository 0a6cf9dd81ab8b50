from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from velatura.recipe.lines import key_lines, nearest_line

TEXT = '''\
name = "a" # [not.a.header]
"quoted key" = 1
a.b = 2

[model] # here
text = """
[not]
key = 3
"""
after = 'x # no comment'
list = [
  "]", # ]
  [1, 2],
]
last = {inline = 1,
  more = 2}

[[data]]
folder = "x"
[[data]]
  folder = "y = z"
[ spaced . out ]
end = "\\" ["
'''


def test_lines_of_all_kinds_of_keys() -> None:
    assert key_lines(TEXT) == {
        ("name",): 1,
        ("quoted key",): 2,
        ("a", "b"): 3,
        ("model",): 5,
        ("model", "text"): 6,
        ("model", "after"): 10,
        ("model", "list"): 11,
        ("model", "last"): 15,
        ("data",): 18,
        ("data", 0): 18,
        ("data", 0, "folder"): 19,
        ("data", 1): 20,
        ("data", 1, "folder"): 21,
        ("spaced", "out"): 22,
        ("spaced", "out", "end"): 23,
    }


def test_nearest_line() -> None:
    lines = key_lines(TEXT)
    assert nearest_line(lines, ("data", 1, "folder")) == 21
    assert nearest_line(lines, ("data", 1, "missing", 3)) == 20
    assert nearest_line(lines, ("missing",)) is None


def test_a_line_separator_in_a_text_is_no_new_line() -> None:
    assert key_lines('a = "x\u2028y"\nb = 1\n') == {("a",): 1, ("b",): 2}


values = st.one_of(
    st.integers(), st.booleans(), st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
    st.lists(st.integers()),
)  # fmt: skip


@given(st.lists(values, min_size=1, max_size=6), st.booleans())
def test_each_key_is_found_where_it_was_written(found: list[object], multi_line: bool) -> None:
    text, expected, number = "", {}, 1
    for index, value in enumerate(found):
        if isinstance(value, str):
            quoted = value.replace("\\", "\\\\").replace('"', '\\"')
            shown = f'"""\n{quoted}\n"""' if multi_line else f'"{quoted}"'
        else:
            shown = str(value).lower()
        expected[(f"key{index}",)] = number
        text += f"key{index} = {shown}\n"
        number += 1 + shown.count("\n")
    assert len(tomllib.loads(text)) == len(found)
    assert key_lines(text) == expected


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in key_lines(text).values())
