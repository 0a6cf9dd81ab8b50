"""Arrow streams; images inside one are read from the file itself, byte by byte where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from velatura.data.places import PartPlace
from velatura.data.tables.arrow_table import open_arrow
from velatura.data.tables.rows import Row
from velatura.errors import DataError

IMAGES = [b"first", None, b"third", b"", b"fifth"]
ENTRY = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PATHS = ["a.png", "b.png", None, "d.PNG", "e.png"]
ENTRIES = [{"bytes": data, "path": path} for data, path in zip(IMAGES, PATHS, strict=True)]
ENTRIES[2:3] = [{"bytes": b"third", "path": None}]


def write(path: Path, *, binary: Any = None, options: Any = None) -> Path:
    """Five rows in three batches."""
    kind = binary or pa.binary()
    table = pa.table(
        {
            "image": pa.array(ENTRIES, pa.struct([("bytes", kind), ("path", pa.string())])),
            "mask": pa.array(IMAGES, kind),
            "text": pa.array(["one", None, "three", "four", "five"]),
            "tags": pa.array([["x", "y"], [], None, ["z"], ["w"]]),
        }
    )
    with pa.ipc.new_stream(str(path), table.schema, options=options) as stream:
        stream.write_table(table, max_chunksize=2)
    return path


def rows(path: Path, *wanted: str) -> list[dict[str, Any]]:
    return [dict(row.cells) for row in open_arrow(path).rows(wanted) if isinstance(row, Row)]


def test_values(tmp_path: Path) -> None:
    table = write(tmp_path / "x.arrow")
    assert open_arrow(table).columns == ("image", "mask", "text", "tags")
    assert rows(table, "text", "tags")[:3] == [
        {"text": "one", "tags": ["x", "y"]}, {"text": None, "tags": []}, {"text": "three", "tags": None},
    ]  # fmt: skip
    assert [row.where for row in open_arrow(table).rows(["text"])] == [f"row {n}" for n in range(1, 6)]


@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("column", ["image", "mask"])
def test_bytes_are_places_in_the_file(tmp_path: Path, column: str, binary: Any) -> None:
    found = [row[column] for row in rows(write(tmp_path / "x.arrow", binary=binary), column)]
    assert [cell.read() if isinstance(cell, PartPlace) else cell for cell in found] == [
        b"first", "b.png" if column == "image" else None, b"third", b"", b"fifth",
    ]  # fmt: skip
    assert len({cell.key for cell in found if isinstance(cell, PartPlace)}) == 4


def test_batches_that_begin_inside_larger_ones(tmp_path: Path) -> None:
    """Writers cut batches out of others: offsets then do not begin at 0."""
    whole = pa.record_batch({"mask": pa.array([b"zero", b"one", b"two", b"three"])})
    with pa.ipc.new_stream(str(tmp_path / "x.arrow"), whole.schema) as stream:
        stream.write_batch(whole.slice(1, 2))
        stream.write_batch(whole.slice(3))
    assert [row["mask"].read() for row in rows(tmp_path / "x.arrow", "mask")] == [b"one", b"two", b"three"]


def test_null_structs(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary())])
    batch = pa.record_batch({"image": pa.array([None, {"bytes": b"there"}], kind)})
    with pa.ipc.new_stream(str(tmp_path / "x.arrow"), batch.schema) as stream:
        stream.write_batch(batch)
    first, second = rows(tmp_path / "x.arrow", "image")
    assert first["image"] is None
    assert second["image"].read() == b"there"


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_batches_are_refused(tmp_path: Path, codec: str) -> None:
    table = write(tmp_path / "x.arrow", options=pa.ipc.IpcWriteOptions(compression=codec))
    assert len(rows(table, "text")) == 5  # texts are no places
    with pytest.raises(DataError, match=r"x.arrow', after row 0: its batches are compressed"):
        rows(table, "image")


def test_a_table_that_is_cut_off(tmp_path: Path) -> None:
    table = write(tmp_path / "x.arrow")
    table.write_bytes(table.read_bytes()[: table.stat().st_size // 2])
    with pytest.raises(DataError, match=r"x.arrow', after row \d"):
        rows(table, "image")


@pytest.mark.parametrize("data", [b"", b"no arrow", b"version https://git-lfs.github.com/spec/v1"])
def test_what_is_no_stream(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.arrow").write_bytes(data)
    with pytest.raises(DataError, match=r"x.arrow' cannot be read as an Arrow stream"):
        open_arrow(tmp_path / "x.arrow")


def test_a_batch_without_any_bytes(tmp_path: Path) -> None:
    """Arrow keeps no bytes in the file then, which looked as if they were compressed."""
    batch = pa.record_batch({"image": pa.array([{"bytes": None, "path": "a.png"}], ENTRY)})
    with pa.ipc.new_stream(str(tmp_path / "x.arrow"), batch.schema) as stream:
        stream.write_batch(batch)
    assert rows(tmp_path / "x.arrow", "image") == [{"image": "a.png"}]


@pytest.mark.parametrize("lie", [2**31 - 1, 2**20, -5])
def test_offsets_that_lie_do_not_lead_outside_the_file(tmp_path: Path, lie: int) -> None:
    """Arrow reads wherever offsets point to, and the process ends there."""
    table = write(tmp_path / "x.arrow")
    offsets = np.array([0, 5, 5], "<i4").tobytes()  # of the first two masks
    assert offsets in table.read_bytes()
    table.write_bytes(table.read_bytes().replace(offsets, np.array([0, lie, 5], "<i4").tobytes()))
    for column in ("mask", "image"):
        with pytest.raises(DataError, match=r"x.arrow', after row 0: .*ffset"):
            rows(table, column)


def test_texts_that_are_none_and_values_that_python_does_not_have(tmp_path: Path) -> None:
    buffers = [None, pa.py_buffer(np.array([0, 2], "<i4").tobytes()), pa.py_buffer(b"\xff\xfe")]
    for column, message in (
        (pa.Array.from_buffers(pa.string(), 1, buffers), "UTF8"),
        (pa.array([2**62 + 1], pa.timestamp("ns")), "resolution|anosecond"),
    ):
        with pa.ipc.new_stream(str(tmp_path / "x.arrow"), pa.schema([("text", column.type)])) as stream:
            stream.write_batch(pa.record_batch([column], ["text"]))
        with pytest.raises(DataError, match=message):
            rows(tmp_path / "x.arrow", "text")
