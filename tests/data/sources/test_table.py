"""Tables of images: CSV as DiffSynth lays it out, JSON as sd-scripts does, Parquet with the images inside."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from velatura.data.items import Item, Treatment
from velatura.data.places import FilePlace
from velatura.data.sources import table_rows as reader
from velatura.data.sources.record import Reading, Record
from velatura.data.sources.table import read_table
from velatura.errors import DataError
from velatura.recipe.data.sources.table import TableData

Write = Callable[..., Path]


def read(base: Path, file: str = "set/metadata.csv", **section: Any) -> Reading:
    return read_table(TableData(file=file, **section), base)


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., None]:
    """Write a table, and an empty file for each image: a reader opens none of them."""

    def write(content: str | bytes, *images: str, file: str = "set/metadata.csv") -> None:
        for name in (file, *images):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / file).write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def path_of(record: Record, base: Path, role: Any = None) -> str:
    place = record.companions[role] if role else record.image
    assert isinstance(place, FilePlace)
    return Path(place.path).relative_to(base).as_posix()


def captions(reading: Reading) -> list[str]:
    return [record.caption.text for record in reading.records]


def test_a_table_of_diffsynth(tmp_path: Path, table: Callable[..., None]) -> None:
    table(
        'image,prompt,kontext_images\nout/1.jpg,"a dog, red",in/1.jpg\nout/2.jpg,,in/2.jpg\n',
        *("set/out/1.jpg", "set/out/2.jpg", "set/in/1.jpg", "set/in/2.jpg"),
    )
    reading = read(tmp_path, reference_column="kontext_images")
    first, second = reading.records
    assert (first.name, path_of(first, tmp_path)) == ("set/out/1.jpg", "set/out/1.jpg")
    assert path_of(first, tmp_path, "reference") == "set/in/1.jpg"
    assert (first.caption.text, first.caption.origin) == ("a dog, red", "table")
    assert (second.caption.text, second.caption.origin) == ("", "none")
    assert (reading.unusable, reading.notices) == ((), ())


def test_columns_that_are_not_read_are_told(tmp_path: Path, table: Callable[..., None]) -> None:
    table("image,prompt,kontext_images,seed\na.png,x,b.png,3\n", "set/a.png")
    assert read(tmp_path).notices == (
        "columns of 'set/metadata.csv' that are not read: kontext_images, seed.",
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("set/m.parquet", b"no parquet"),
        ("set/m.arrow", b"no arrow"),
        ("set/m.csv", b""),
        ("set/m.csv", b'image\n"a'),
        ("set/m.json", b"{"),
        ("set/m.json", b"3"),
        ("set/m.jsonl", b" " * (2**24 + 1)),
    ],
)
def test_messages_call_a_table_what_the_recipe_calls_it(
    tmp_path: Path, table: Callable[..., None], file: str, content: bytes
) -> None:
    table(content, file=file)
    with pytest.raises(DataError) as caught:
        list(read(tmp_path, file).records)
    assert str(caught.value).startswith(f"table '{file}'")
    assert str(tmp_path) not in str(caught.value)


def test_metadata_of_sd_scripts(tmp_path: Path, table: Callable[..., None]) -> None:
    document = {"a.png": {"caption": "a dog", "tags": "red, big"}, "b.png": {"tags": "blue"}, "c.png": {}}
    table(json.dumps(document), "images/a.png", "images/b.png", "images/c.png", file="meta.json")
    reading = read(tmp_path, "meta.json", folder="images", tags_column="tags")
    assert captions(reading) == ["a dog, red, big", "blue", ""]
    assert [path_of(record, tmp_path) for record in reading.records] == [
        "images/a.png", "images/b.png", "images/c.png",
    ]  # fmt: skip


def test_lines_of_a_caption_stay_alternatives(tmp_path: Path, table: Callable[..., None]) -> None:
    table('{"image": "a.png", "text": ["one", " two  x "], "tags": ["t\\nu", "v"]}', "a.png", file="x.jsonl")
    assert captions(read(tmp_path, "x.jsonl")) == ["one\ntwo x"]
    wild = read(tmp_path, "x.jsonl", tags_column="tags", wildcards=True)
    assert captions(wild) == ["one, t, u, v\ntwo x, t, u, v"]
    plain = read(tmp_path, "x.jsonl", tags_column="tags", tag_separator=";")
    assert captions(plain) == ["one two x; t; u; v"]


def test_a_rows_own_numbers(tmp_path: Path, table: Callable[..., None]) -> None:
    table(
        "image,n,w,f\na.png,3,0.5,1\nb.png,,,\nc.png,0,1,0\nd.png,-1,1,0\ne.png,1,0,0\nf.png,1,1,2\ng.png,nan,1,0\n",
        *(f"set/{letter}.png" for letter in "abcdefg"),
    )
    reading = read(tmp_path, repeats_column="n", weight_column="w", flip_column="f")
    assert [(record.name, dict(record.own)) for record in reading.records] == [
        ("set/a.png", {"repeats": 3.0, "weight": 0.5, "flip": 1.0}),
        ("set/b.png", {}),
    ]
    assert set(reading.records[0].own) <= set(Treatment.__dataclass_fields__)
    assert [reason for _, reason in reading.unusable] == [
        "'n' is -1; allowed: a number, at least 0",
        "'w' is 0; allowed: a number, more than 0",
        "'f' is 2; allowed: a number from 0 to 1",
        "'n' is nan; allowed: a number, at least 0",
    ]
    assert reading.notices == ("1 row of 'set/metadata.csv' says 0 repeats and is left out: set/c.png.",)


def test_rows_that_cannot_be_used_are_listed_with_their_line(
    tmp_path: Path, table: Callable[..., None]
) -> None:
    table(
        "image,prompt\na.png,x\ngone.png,x\n,x\n../meta.csv,x\nb.png,one,two\n",
        *("set/a.png", "meta.csv"),
    )
    reading = read(tmp_path)
    assert len(list(reading.records)) == 1
    assert [name for name, _ in reading.unusable] == [f"set/metadata.csv, line {n}" for n in (3, 4, 5, 6)]
    reasons = [reason for _, reason in reading.unusable]
    assert reasons[0] == "no file 'gone.png' in 'set'"
    assert reasons[1] == "names no image: 'image' is empty"
    assert "outside = true allows files outside" in reasons[2]
    assert "has 3 cells" in reasons[3]
    allowed = read(tmp_path, outside=True)
    assert [record.name for record in allowed.records] == ["set/a.png", "set/../meta.csv"]


def test_a_missing_companion_makes_a_row_unusable(tmp_path: Path, table: Callable[..., None]) -> None:
    lines = ['{"image": "a.png", "m": null}', '{"image": "a.png", "m": ["a.png", "b.png"]}', '{"image": "a.png", "m": 3}', '{"image": "a.png", "m": ["a.png"]}']  # fmt: skip
    table("\n".join(lines), "a.png", file="x.jsonl")
    reading = read(tmp_path, "x.jsonl", mask_column="m")
    assert [reason for _, reason in reading.unusable] == [
        "names no mask: 'm' is empty",
        "names 2 files for the mask in 'm'; one is read",
        "'m' holds no path: 3",
    ]
    assert path_of(reading.records[0], tmp_path, "mask") == "a.png"


def test_several_folders(tmp_path: Path, table: Callable[..., None]) -> None:
    table("image\na.png\nb.png\n", "one/a.png", "two/a.png", "two/b.png")
    reading = read(tmp_path, folder=["one", "two"])
    assert [record.name for record in reading.records] == ["one/a.png", "two/b.png"]


def test_images_of_several_rows_are_told(tmp_path: Path, table: Callable[..., None]) -> None:
    table("image,prompt\na.png,x\nb.png,y\na.png,z\n", "set/a.png", "set/b.png")
    reading = read(tmp_path)
    assert captions(reading) == ["x", "y", "z"]
    assert reading.notices == (
        "1 image is in several rows of 'set/metadata.csv', and each row counts: set/a.png.",
    )


@pytest.mark.parametrize(
    ("header", "section", "message"),
    [
        ("img,prompt", {}, "has no column 'image'.*Its columns are 'img', 'prompt'"),
        ("image,promt", {"caption_column": "prompt"}, r"has no column 'prompt'; did you mean 'promt'\? Its"),
        ("image,prompt", {"mask_column": "mask"}, "has no column 'mask'"),
        ("image,prompt,caption", {}, "has the columns 'prompt', 'caption'; say with caption_column which"),
        ("image,file_name", {}, "say with image_column which"),
        ("image,prompt", {"folder": "gone"}, "folder 'gone' does not exist"),
        ("image,prompt", {}, "has no rows"),
    ],
)
def test_tables_that_do_not_fit(
    tmp_path: Path, table: Callable[..., None], header: str, section: dict[str, Any], message: str
) -> None:
    table(f"{header}\n")
    with pytest.raises(DataError, match=message):
        read(tmp_path, **section)


def test_usual_columns_are_found_and_captions_may_be_switched_off(
    tmp_path: Path, table: Callable[..., None]
) -> None:
    table("file_name,text\na.png,x\n", "set/a.png")
    assert captions(read(tmp_path)) == ["x"]
    assert captions(read(tmp_path, caption_column="")) == [""]


def test_files_that_are_no_tables(tmp_path: Path, table: Callable[..., None]) -> None:
    with pytest.raises(DataError, match="'set/metadata.csv' does not exist"):
        read(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="'folder.csv' is a folder"):
        read(tmp_path, "folder.csv")
    with pytest.raises(DataError, match="ends in '.xlsx'; allowed: .csv, .tsv, .json, .jsonl, .parquet"):
        read(tmp_path, "x.xlsx")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="'pipe.csv' is no regular file"):
        read(tmp_path, "pipe.csv")


def test_the_number_of_rows_is_limited(
    tmp_path: Path, table: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_ROWS", 3)
    table("image\n" + "a.png\n" * 4, "set/a.png")
    with pytest.raises(DataError, match="more than 3 rows; split it"):
        read(tmp_path)


def scanned(base: Path, log: Any, file: str, **section: Any) -> tuple[Item, ...]:
    from velatura.data.scanning.scan import scan

    return scan([TableData(file=file, **section)], base, log.events).items


def test_a_scanned_table(tmp_path: Path, write_image: Write, log: Any) -> None:
    write_image("a.png", (40, 30), seed=1)
    write_image("b.png", (40, 30), seed=2)
    (tmp_path / "x.csv").write_text("image,control,prompt,n\na.png,b.png,hello,2\n")
    (item,) = scanned(tmp_path, log, "x.csv", control_column="control", repeats_column="n", flip=0.5)
    assert (item.width, item.height, item.caption.text) == (40, 30, "hello")
    assert (item.treatment.repeats, item.treatment.flip) == (2, 0.5)
    assert item.companions["control"].content != item.content


def test_images_inside_a_parquet_table_are_scanned_and_remembered(tmp_path: Path, log: Any) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from velatura.data.scanning.scan import scan

    images = []
    for seed in range(3):
        out = io.BytesIO()
        noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(out, "PNG")
        images.append({"bytes": out.getvalue(), "path": f"{seed}.png"})
    pq.write_table(pa.table({"image": images, "text": ["a", "b", "c"]}), tmp_path / "x.parquet")
    section = TableData(file="x.parquet")
    first = scan([section], tmp_path, log.events, memory=tmp_path / "memory").items
    assert [(item.name, item.width, item.height, item.caption.text) for item in first] == [
        (f"x.parquet, row {n + 1}", 12, 8, "abc"[n]) for n in range(3)
    ]
    assert first == scan([section], tmp_path, log.events, memory=tmp_path / "memory").items


def test_captions_that_are_no_text(tmp_path: Path) -> None:
    """They are set aside, and never trained as the words of a Python object."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture = {"bytes": b"x", "path": "x.png"}
    for name, texts in {"bytes": [b"a dog"], "struct": [{"en": "a dog"}], "list": [["a dog", None]]}.items():
        pq.write_table(pa.table({"image": [picture], "text": texts}), tmp_path / f"{name}.parquet")
        found = read(tmp_path, f"{name}.parquet")
        ((_, reason),) = found.unusable
        assert reason.startswith("'text' holds no text: ")
    pq.write_table(
        pa.table({"image": [picture] * 3, "text": [["a", "b"], None, ["c"]]}), tmp_path / "x.parquet"
    )
    assert captions(read(tmp_path, "x.parquet")) == ["a\nb", "", "c"]
