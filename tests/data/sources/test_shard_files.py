"""Names of shards, as WebDataset writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velatura.data.sources.shard_files import _expanded, shard_files
from velatura.errors import DataError


def names(text: str, base: Path) -> list[str]:
    return [name for name, _ in shard_files(text, base)]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    for name in ("b-001.tar", "b-000.tar", "a-000.tar", ".hidden.tar", "notes.txt"):
        (tmp_path / "set" / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("set", ["set/a-000.tar", "set/b-000.tar", "set/b-001.tar"]),
        ("set/", ["set/a-000.tar", "set/b-000.tar", "set/b-001.tar"]),
        ("set/b-*.tar", ["set/b-000.tar", "set/b-001.tar"]),
        ("set/b-{000..001}.tar", ["set/b-000.tar", "set/b-001.tar"]),
        ("set/{a,b}-000.tar", ["set/a-000.tar", "set/b-000.tar"]),
        ("set/{a,b-001}*.tar", ["set/a-000.tar", "set/b-001.tar"]),
        ("set/{a-000,b-00{0,1}}.tar", ["set/a-000.tar", "set/b-000.tar", "set/b-001.tar"]),
        ("set/a-000.tar", ["set/a-000.tar"]),
    ],
)
def test_what_a_text_stands_for(shards: Path, text: str, found: list[str]) -> None:
    assert names(text, shards) == found
    assert all(Path(path).is_file() for _, path in shard_files(text, shards))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "set/b-{000..003}.tar",
            r"2 shards of 'b-\{000..003\}.tar' not found in 'set': b-002.tar, b-003.tar",
        ),
        ("set/c-*.tar", "no shard fits 'set/c-"),
        ("gone/*.tar", "folder 'gone' of shards does not exist .looked for /.*gone"),
        ("set/b-{9..1}.tar", "must count up"),
        ("set/b-{0..999999999}.tar", "at most 100,000 numbers"),
        ("set/b-" + "{0..9}" * 8 + ".tar", "stands for more than 100,000 shards"),
    ],
)
def test_what_is_not_there(shards: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        shard_files(text, shards)


@pytest.mark.parametrize("text", ["set", "set/c.tar.gz", "set/*"])
def test_compressed_shards_are_refused(shards: Path, text: str) -> None:
    (shards / "set/c.tar.gz").touch()
    with pytest.raises(DataError, match="1 shard in 'set' cannot be read singly, for compression: c.tar.gz"):
        shard_files(text, shards)


@given(st.integers(0, 500), st.integers(0, 60), st.integers(1, 6))
def test_a_range_counts_with_its_width(first: int, more: int, width: int) -> None:
    text = f"x-{{{first:0{width}}..{first + more:0{width}}}}.tar"
    expected = [f"x-{number:0{max(width, len(str(first)))}}.tar" for number in range(first, first + more + 1)]
    assert list(_expanded(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("set/" + "{a,b}" * 30, "more than 20 braces"),
        ("set/" + "{a}" * 3000, "more than 20 braces"),
        ("set/{0..99999}" + "9" * 1000, "or for names too long"),
        ("set/{0..99999}[a", "more than 100 patterns"),
        ("set/{0..999}{0..999}{0..99999}", "stands for more than 100,000 shards"),
        ("set/{0.." + "9" * 5000 + "}.tar", "not found"),
        ("set/" + "x" * 300 + ".tar", "not found"),
        ("x" * 300 + "/*.tar", "does not exist"),
    ],
)
def test_texts_made_to_hang(shards: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        shard_files(text, shards)
