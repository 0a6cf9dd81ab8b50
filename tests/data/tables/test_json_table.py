from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from velatura.data.tables import json_table
from velatura.data.tables.json_table import open_json, open_jsonl
from velatura.data.tables.rows import BadRow, Row, Table
from velatura.errors import DataError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def all_rows(table: Table) -> list[Any]:
    return list(table.rows(table.columns))


def test_a_list_of_objects(tmp_path: Path) -> None:
    table = open_json(
        write(tmp_path / "x.json", '\ufeff[{"image": "a.png"}, 3, {"image": "b.png", "prompt": "x"}]')
    )
    assert table.columns == ("image", "prompt")
    assert all_rows(table) == [
        Row(where="entry 1", cells={"image": "a.png"}),
        BadRow(where="entry 2", reason="holds a number; expected an object of columns"),
        Row(where="entry 3", cells={"image": "b.png", "prompt": "x"}),
    ]


def test_objects_by_image_path(tmp_path: Path) -> None:
    document = {"sub/a.png": {"caption": "x", "tags": "y, z"}, "b.png": {"caption": "w"}}
    table = open_json(write(tmp_path / "x.json", json.dumps(document)))
    assert table.columns == ("image_path", "caption", "tags")
    assert all_rows(table)[0] == Row(
        where="entry 'sub/a.png'", cells={"image_path": "sub/a.png", "caption": "x", "tags": "y, z"}
    )


def test_lines_stand_for_themselves(tmp_path: Path) -> None:
    deep = "[" * 100_000
    text = b'\xef\xbb\xbf{"image": "a.png"}\r\n\n{"image": \n"b"\n' + b'{"image": "\xff"}\n' + deep.encode()
    found = all_rows(open_jsonl(write(tmp_path / "x.jsonl", text)))
    assert found[0] == Row(where="line 1", cells={"image": "a.png"})
    assert [(row.where, row.reason.partition(":")[0]) for row in found[1:]] == [
        ("line 3", "not JSON"),
        ("line 4", "holds a text; expected an object of columns"),
        ("line 5", "not UTF-8 text"),
        ("line 6", found[-1].reason.partition(":")[0]),
    ]
    assert found[-1].reason.startswith(("nested too deeply", "not JSON"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"image": "a.png"},\n]', "line 2, column 1: not JSON"),
        ('{"images": ["a.png"]}', "holds an object; allowed: a list of objects"),
        ('"a.png"', "holds a text; allowed"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        (b'["\xff"]', "not UTF-8"),
    ],
)
def test_documents_that_are_no_tables(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_json(write(tmp_path / "x.json", content))


def test_sizes_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_table, "MAX_DOCUMENT", 100)
    monkeypatch.setattr(json_table, "MAX_LINE", 100)
    with pytest.raises(DataError, match="Write it as JSONL"):
        open_json(write(tmp_path / "x.json", "[" + " " * 200 + "]"))
    with pytest.raises(DataError, match="line 2: longer than"):
        open_jsonl(write(tmp_path / "x.jsonl", '{"image": "a"}\n' + " " * 200))


def test_numbers_that_python_does_not_read(tmp_path: Path) -> None:
    number = "9" * 5000
    with pytest.raises(DataError, match=r"x.json' cannot be read: .*digits"):
        open_json(write(tmp_path / "x.json", f'[{{"weight": {number}}}]'))
    good, bad = all_rows(open_jsonl(write(tmp_path / "x.jsonl", f'{{"a": 1}}\n{{"a": {number}}}')))
    assert isinstance(good, Row)
    assert isinstance(bad, BadRow)
    assert "digits" in bad.reason
