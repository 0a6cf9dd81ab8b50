"""Parquet tables; images inside one are read from there, cell by cell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from velatura.data.places import CellPlace
from velatura.data.tables.parquet_table import open_parquet
from velatura.data.tables.rows import Row
from velatura.errors import DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGES = [b"first", None, b"third", b"", b"fifth"]
PATHS = ["a.png", "b.png", None, "d.PNG", "e.png"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Five rows in three row groups: images with paths, bare bytes, texts and numbers."""
    entries = [{"bytes": data, "path": path} for data, path in zip(IMAGES, PATHS, strict=True)]
    columns = {
        "image": pa.array(entries, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "mask": pa.array(IMAGES, pa.binary()),
        "text": pa.array(["one", None, "three", "four", "five"]),
        "weight": pa.array([1.5, 2.0, None, 1.0, 1.0]),
        "tags": pa.array([["x", "y"], [], None, ["z"], ["w"]]),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=2)
    return tmp_path / "x.parquet"


def rows(path: Path, *wanted: str) -> list[dict[str, Any]]:
    return [dict(row.cells) for row in open_parquet(path).rows(wanted) if isinstance(row, Row)]


def test_values(table: Path) -> None:
    assert open_parquet(table).columns == ("image", "mask", "text", "weight", "tags")
    assert rows(table, "text", "weight", "tags")[:3] == [
        {"text": "one", "weight": 1.5, "tags": ["x", "y"]},
        {"text": None, "weight": 2.0, "tags": []},
        {"text": "three", "weight": None, "tags": None},
    ]
    assert [row.where for row in open_parquet(table).rows(["text"])] == [f"row {n}" for n in range(1, 6)]


@pytest.mark.parametrize("column", ["image", "mask"])
def test_bytes_are_places(table: Path, column: str) -> None:
    found = [row[column] for row in rows(table, column)]
    read = [place.read() if isinstance(place, CellPlace) else None for place in found]
    assert read == IMAGES
    assert len({place.key for place in found if isinstance(place, CellPlace)}) == 4


def test_where_there_are_no_bytes_the_path_counts(table: Path) -> None:
    cells = [row["image"] for row in rows(table, "image")]
    assert cells[1] == "b.png"
    assert [type(cell) for cell in cells] == [CellPlace, str, CellPlace, CellPlace, CellPlace]
    assert rows(table, "mask")[1]["mask"] is None


def test_listing_reads_no_images(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[list[str]] = []
    read = pq.ParquetFile.read_row_group

    def noted(self: Any, group: int, columns: list[str]) -> Any:
        groups.append([group, *columns])
        return read(self, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    rows(table, "mask")
    assert groups == [[0, "mask"]]  # only in the first group are some cells empty and some not


def test_row_groups_have_a_limit(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("velatura.data.tables.parquet_table.MAX_GROUP", 10)
    with pytest.raises(DataError, match="row group 0: 'text' has"):
        rows(table, "text")


def test_what_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        open_parquet(tmp_path / "x.parquet")


ONE_BYTE_AT_A_TIME = """
import sys
from pathlib import Path
from velatura.data.tables.parquet_table import open_parquet
from velatura.errors import DataError

path = Path(sys.argv[1])
data = path.read_bytes()
for place in range(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data) - 8):
    for bit in (1, 8):
        changed = bytearray(data)
        changed[place] ^= bit
        path.write_bytes(changed)
        try:
            list(open_parquet(path).rows(["image", "text"]))
        except DataError:
            pass
"""


def test_a_description_that_lies_does_not_end_the_process(tmp_path: Path) -> None:
    """Asked of a column whose description does not fit itself, Arrow aborts; so it is not asked."""
    texts = pa.table({"image": pa.array([b"x"], pa.binary()), "text": ["a"]})
    pq.write_table(texts, tmp_path / "x.parquet", store_schema=False)
    done = subprocess.run(
        [sys.executable, "-c", ONE_BYTE_AT_A_TIME, str(tmp_path / "x.parquet")], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-500:]


def test_texts_that_are_none(tmp_path: Path) -> None:
    buffers = [None, pa.py_buffer(np.array([0, 2], "<i4").tobytes()), pa.py_buffer(b"\xff\xfe")]
    column = pa.Array.from_buffers(pa.string(), 1, buffers)
    pq.write_table(pa.table({"text": column}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="row group 0: .*utf-8"):
        rows(tmp_path / "x.parquet", "text")
