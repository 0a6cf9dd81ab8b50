"""Bytes inside larger files, and what tells that they may have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from velatura.data.places import FilePlace, JsonTextPlace, PartPlace


def test_a_part_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    file.write_bytes(b"0123456789")
    part = PartPlace(str(file), "a.jpg", 3, 4)
    assert part.read() == b"3456"
    status = file.stat()
    assert part.stamp() == (4, status.st_mtime_ns, status.st_ctime_ns)
    assert part.key != PartPlace(str(file), "a.jpg", 4, 4).key
    before = part.stamp()
    os.utime(file, ns=(1, 1))
    assert part.stamp() != before


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    file.write_bytes(b"01234")
    with pytest.raises(OSError, match=r"x\.tar ends inside a\.jpg"):
        PartPlace(str(file), "a.jpg", 3, 4).read()


@pytest.mark.parametrize(
    ("text", "keys", "read"),
    [
        ('{"caption": "a dög", "x": 1}', ("caption",), "a dög"),
        ('{"text": "b", "caption": "a"}', ("prompt", "caption", "text"), "a"),
        ('{"caption": ["one", "two"]}', ("caption",), "one\ntwo"),
        ('{"caption": null}', ("caption", "text"), ""),
        ('{"x": 1}', ("caption", "text"), ""),
    ],
)
def test_a_text_in_json(tmp_path: Path, text: str, keys: tuple[str, ...], read: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert JsonTextPlace(FilePlace(str(tmp_path / "a.json")), keys).read().decode() == read


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("[1]", "no JSON object"),
        ('{"a": 1, "b": 2}', "no key 'caption'; its keys are a, b"),
        ('{"caption": 7}', "holds no text, but 7"),
    ],
)
def test_json_without_that_text(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=reason):
        JsonTextPlace(FilePlace(str(tmp_path / "a.json")), ("caption",)).read()
