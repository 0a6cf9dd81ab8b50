"""Datasets as the `datasets` library leaves them on disk: saved, as Parquet, and pictures with metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from velatura.data.decoded import load_pixels
from velatura.data.items import Scan
from velatura.data.scanning.scan import scan
from velatura.data.views import View
from velatura.errors import DataError
from velatura.recipe.data.sources.huggingface import HuggingFaceData

from ..shards import picture

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def scanned(tmp_path: Path, log: Any) -> Any:
    def run(memory: Path | None = None, **keys: Any) -> Scan:
        section = HuggingFaceData(**{"repository": "set", "max_bad": 0.9, **keys})
        return scan([section], tmp_path, log.events, memory=memory)

    return run


def table(first: int, last: int) -> Any:
    numbers = range(first, last)
    images = [{"bytes": picture((40 + n, 30), seed=n), "path": f"{n}.png"} for n in numbers]
    return pa.table({"image": pa.array(images, IMAGE), "text": [f"number {n}" for n in numbers]})


def write_parquet(path: Path, first: int, last: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(first, last), path, row_group_size=2)


def save_to_disk(folder: Path, first: int, last: int, split: str | None = "train", **state: Any) -> None:
    """What `Dataset.save_to_disk` writes: two files, in the order of state.json."""
    folder.mkdir(parents=True)
    names = [f"data-0000{n}-of-00002.arrow" for n in range(2)]
    middle = (first + last) // 2
    for name, rows in zip(names, (table(first, middle), table(middle, last)), strict=True):
        with pa.ipc.new_stream(str(folder / name), rows.schema) as stream:
            stream.write_table(rows, max_chunksize=2)
    described = {"_data_files": [{"filename": name} for name in names], "_split": split, **state}
    (folder / "state.json").write_text(json.dumps(described))
    (folder / "dataset_info.json").write_text("{}")


def captions(found: Scan) -> list[str]:
    return [item.caption.text for item in found.items]


def numbers(first: int, last: int) -> list[str]:
    return [f"number {n}" for n in range(first, last)]


def test_saved_to_disk(tmp_path: Path, scanned: Any) -> None:
    save_to_disk(tmp_path / "set", 0, 5)
    found = scanned()
    assert captions(found) == numbers(0, 5)
    assert [item.width for item in found.items] == [40, 41, 42, 43, 44]
    assert found.items[3].name == "set, data-00001-of-00002.arrow, row 2"
    assert load_pixels(View(item=found.items[3], bucket=(43, 30))).shape == (3, 30, 43)
    with pytest.raises(DataError, match="is the split 'train', and split = \"test\" was asked for"):
        scanned(split="test")


def test_several_splits_saved_to_disk(tmp_path: Path, scanned: Any) -> None:
    save_to_disk(tmp_path / "set/train", 0, 3)
    save_to_disk(tmp_path / "set/extra", 3, 5, split="extra")
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["train", "extra"]}')
    assert captions(scanned()) == numbers(0, 3)
    assert captions(scanned(split="extra")) == numbers(3, 5)
    assert captions(scanned(repository="set/extra")) == numbers(3, 5)
    with pytest.raises(DataError, match="no split 'test'; it has train, extra"):
        scanned(split="test")
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": 3}')
    with pytest.raises(DataError, match="no split 'train'; it has none"):
        scanned()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, "save it again"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "lacks files that its state.json names: gone.arrow"),
        ({"_data_files": None}, "names no data files"),
        ({"_data_files": []}, "names no data files"),
        ({"_data_files": [{"filename": "x" * 300}]}, "lacks files that its state.json names"),
    ],
)
def test_a_saved_dataset_that_is_not_whole(tmp_path: Path, scanned: Any, state: Any, message: str) -> None:
    save_to_disk(tmp_path / "set", 0, 3, **state)
    with pytest.raises(DataError, match=message):
        scanned()


def test_parquet_files_of_a_split(tmp_path: Path, scanned: Any) -> None:
    write_parquet(tmp_path / "set/data/train-00000-of-00002.parquet", 0, 3)
    write_parquet(tmp_path / "set/data/train-00001-of-00002.parquet", 3, 5)
    write_parquet(tmp_path / "set/data/validation-00000-of-00001.parquet", 5, 7)
    (tmp_path / "set/.cache").mkdir()
    write_parquet(tmp_path / "set/.cache/train.parquet", 7, 9)
    (tmp_path / "set/README.md").write_text("a card")
    assert captions(scanned()) == numbers(0, 5)
    assert captions(scanned(split="validation")) == captions(scanned(split="val")) == numbers(5, 7)
    with pytest.raises(DataError, match="no files of the split 'test'; its files name train, validation"):
        scanned(split="test")


def test_parquet_without_splits_or_of_several_datasets(tmp_path: Path, scanned: Any) -> None:
    write_parquet(tmp_path / "set/a/0.parquet", 0, 2)
    assert captions(scanned()) == numbers(0, 2)
    with pytest.raises(DataError, match="tell no splits"):
        scanned(split="train")
    write_parquet(tmp_path / "set/b/0.parquet", 2, 4)
    with pytest.raises(DataError, match="holds several datasets, in the folders a, b"):
        scanned()
    assert captions(scanned(repository="set/b")) == numbers(2, 4)


def test_columns_must_be_those_of_the_first(tmp_path: Path, scanned: Any) -> None:
    write_parquet(tmp_path / "set/0.parquet", 0, 2)
    pq.write_table(table(2, 4).drop_columns(["text"]), tmp_path / "set/1.parquet")
    with pytest.raises(DataError, match=r"'1.parquet' has no column 'text'"):
        scanned()


@pytest.mark.parametrize("place", ["", "train/", "data/train/"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_pictures_with_metadata(tmp_path: Path, scanned: Any, place: str, kind: str) -> None:
    folder = tmp_path / "set" / place
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/1.png").write_bytes(picture())
    texts = {
        "csv": 'file_name,text\nsub/1.png,"a dog, red"\n',
        "jsonl": '{"file_name": "sub/1.png", "text": "a dog, red"}',
    }
    (folder / f"metadata.{kind}").write_text(texts[kind])
    found = scanned()
    assert captions(found) == ["a dog, red"]
    assert found.items[0].name == f"set/{place}sub/1.png"
    (folder / "../x.png").write_bytes(picture())
    (folder / f"metadata.{kind}").write_text(texts[kind].replace("sub/1.png", "../x.png"))
    with pytest.raises(DataError, match=r"contains '\.\.'"):
        scanned()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "it is empty"),
        (("a.png", "b.txt"), r'it holds pictures and no metadata.csv: folder = "set" with recursive'),
        (("a.tar",), r'it holds tar shards: shards = "set/\*.tar"'),
        (("a.md", "b.json"), r"it holds .json, .md"),
    ],
)
def test_what_is_no_dataset(tmp_path: Path, scanned: Any, files: tuple[str, ...], message: str) -> None:
    (tmp_path / "set").mkdir()
    for name in files:
        (tmp_path / "set" / name).touch()
    with pytest.raises(DataError, match=message):
        scanned()
    with pytest.raises(DataError, match="'gone' does not exist"):
        scanned(repository="gone")


def test_a_second_scan_reads_no_picture(tmp_path: Path, scanned: Any, monkeypatch: Any) -> None:
    from velatura.data.scanning import looking

    monkeypatch.setattr("velatura.checkpoints.stamps.SETTLED_AFTER", -(10**18))
    save_to_disk(tmp_path / "set", 0, 4)
    first = scanned(memory=tmp_path / "memory")
    monkeypatch.setattr(looking, "probe", None)
    assert scanned(memory=tmp_path / "memory") == first
