"""Cells of Parquet tables, a row group at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from velatura.data import cells
from velatura.data.cells import read_cell
from velatura.data.places import CellPlace

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Five rows in row groups of two."""
    images = [b"first", None, b"third", b"", b"fifth"]
    structs = pa.array([{"bytes": data} for data in images], pa.struct([("bytes", pa.binary())]))
    columns = {"image": structs, "mask": pa.array(images, pa.binary())}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=2)
    return tmp_path / "x.parquet"


@pytest.mark.parametrize("column", ["mask", "image.bytes"])
def test_cells_by_group_and_row(table: Path, column: str) -> None:
    found = [read_cell(str(table), 0, column, group, row) for group, row in ((0, 0), (1, 0), (1, 1), (2, 0))]
    assert found == [b"first", b"third", b"", b"fifth"]
    with pytest.raises(OSError, match="the cell is empty"):
        read_cell(str(table), 0, column, 0, 1)


def test_a_row_group_is_read_once_for_neighbours(table: Path) -> None:
    cells._column.cache_clear()
    for group, row in ((0, 0), (1, 0), (1, 1), (2, 0)):
        CellPlace(str(table), "mask", group, row).read()
    assert (cells._column.cache_info().misses, cells._column.cache_info().hits) == (3, 1)


def test_a_changed_table_is_read_again(table: Path) -> None:
    assert read_cell(str(table), 1, "mask", 0, 0) == b"first"
    pq.write_table(pa.table({"mask": pa.array([b"new"])}), table)
    assert read_cell(str(table), 2, "mask", 0, 0) == b"new"
    with pytest.raises(OSError, match="the cell is empty"):
        read_cell(str(table), 2, "mask", 0, 1)
    with pytest.raises(OSError, match="cannot be read"):
        read_cell(str(table), 3, "mask", 7, 0)


def test_row_groups_have_a_limit(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "MAX_GROUP", 10)
    with pytest.raises(OSError, match="write the table with smaller row groups"):
        read_cell(str(table), 9, "mask", 0, 0)


def test_a_place_has_no_size(table: Path) -> None:
    place = CellPlace(str(table), "mask", 0, 0)
    assert place.stamp()[0] == 0
    assert place.key == f"{table}!mask@0.0"
