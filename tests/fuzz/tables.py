"""What a dataset is described by: tables of five formats, and folders of the `datasets` library."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from velatura.data.places import CellPlace, FilePlace, PartPlace
from velatura.data.sources.huggingface import read_huggingface
from velatura.data.sources.record import Reading
from velatura.data.sources.table import read_table
from velatura.data.text.captions import read_caption
from velatura.recipe.data.sources.huggingface import HuggingFaceData
from velatura.recipe.data.sources.table import TableData

from .checkpoints import put
from .mutate import dumped, of_bytes, of_json, of_text
from .target import Target

ROWS: list[dict[str, Any]] = [
    {
        "file_name": "a.png",
        "text": "a red cube, matte",
        "tags": "red, cube",
        "repeats": 2,
        "weight": 1.0,
        "flip": 0.5,
    },
    {
        "file_name": "sub/b.png",
        "text": "{red|blue} é\nsecond line",
        "tags": "",
        "repeats": 1,
        "weight": 0.5,
        "flip": 0,
    },
]
WORDS = (
    "file_name",
    "image",
    "text",
    "tags",
    "repeats",
    "weight",
    "flip",
    "a.png",
    "sub/b.png",
    "link.png",
    "loop.png",
    "sub",
)
CSV = b'file_name,text,tags,repeats,weight,flip\na.png,"a red cube, matte","red, cube",2,1.0,0.5\nsub/b.png,"x ""y""\nz",,1,0.5,0\n'
CSV_WORDS = (
    *WORDS,
    '"',
    '""',
    '"\n',
    ",",
    "\t",
    ";",
    "|",
    "\r",
    "\r\n",
    "\n\n",
    "nan",
    "-1",
    "1e400",
    '"' * 3000,
)


def folder_of_pictures(folder: Path) -> Path:
    """Files that tables name, and links that lead out: what they lead to must not be found."""
    (folder / "sub").mkdir(exist_ok=True)
    for name in ("a.png", "sub/b.png"):
        (folder / name).write_bytes(b"picture")
    for name, target in (("link.png", "/etc/passwd"), ("loop.png", "loop.png"), ("out", "/etc")):
        if not os.path.lexists(folder / name):
            (folder / name).symlink_to(target)
    return folder


def check_inside(reading: Reading, folder: Path) -> None:
    """Nothing outside the folder was found; what was found can be read, or says why not."""
    real = os.path.realpath(folder)
    for record in reading.records:
        for place in (record.image, record.caption_place, *record.companions.values()):
            if place is None:
                continue
            path = {FilePlace: "path", PartPlace: "file", CellPlace: "table"}.get(type(place))
            assert path is None or os.path.realpath(getattr(place, path)).startswith(real + os.sep), place
            try:
                place.stamp()
                content = place.read()
                if place is record.caption_place:
                    read_caption(content)
            except (OSError, ValueError):
                pass  # what a scan takes for the reason why an image cannot be used


def table_reader(name: str, **keys: Any) -> Callable[[bytes, Path], None]:
    """Reads the case as a table beside the pictures."""

    def read(data: bytes, folder: Path) -> None:
        put(data, folder_of_pictures(folder), name)
        section = TableData(file=name, tags_column="tags", repeats_column="repeats", **keys)
        check_inside(read_table(section, folder), folder)

    return read


@lru_cache
def arrow_tables() -> tuple[pa.Table, ...]:
    """Tables of texts, of images inside, and of types that no one needs."""
    images = [{"bytes": b"picture", "path": None}, {"bytes": None, "path": "a.png"}]
    plain = pa.Table.from_pylist(
        [{key: row[key] for key in ("file_name", "text", "tags", "repeats")} for row in ROWS]
    )
    inside = pa.table({"image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                       "text": ["one", None], "tags": [["x", "y"], []], "repeats": [1.5, None]})  # fmt: skip
    odd = pa.table({
        "image": pa.array([b"one", b"two"], pa.large_binary()), "text": pa.array(["a", "b"]).dictionary_encode(),
        "tags": pa.array([1, 2**60], pa.timestamp("ns", "Europe/Paris")), "repeats": pa.array([1, 2], pa.decimal128(30, 2)),
    })  # fmt: skip
    bad_text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    wrong = pa.table(
        {
            "image": ["a.png"],
            "text": bad_text,
            "tags": pa.array([["x"]]),
            "repeats": pa.array([2**62], pa.duration("s")),
        }
    )
    return plain, inside, plain, inside, odd, wrong


@lru_cache
def parquet_files() -> tuple[bytes, ...]:
    """The tables as Parquet, packed in several ways."""
    found = []
    for table in arrow_tables():
        for options in (
            {"compression": "none"},
            {"compression": "snappy"},
            {"compression": "zstd", "write_statistics": False},
        ):
            buffer = io.BytesIO()
            pq.write_table(table, buffer, row_group_size=1, **options)
            found.append(buffer.getvalue())
    return tuple(found)


@lru_cache
def arrow_files() -> tuple[bytes, ...]:
    """The tables as Arrow streams."""
    found = []
    for table in arrow_tables():
        buffer = io.BytesIO()
        with pa.ipc.new_stream(buffer, table.schema) as stream:
            stream.write_table(table, max_chunksize=1)
        found.append(buffer.getvalue())
    return tuple(found)


def mutated(files: Callable[[], Iterable[bytes]], words: tuple[bytes, ...] = ()) -> Callable[[Random], bytes]:
    """One of the files with bytes changed."""
    change = of_bytes(words)
    return lambda chance: change(chance, chance.choice(tuple(files())))


STATE = dumped(
    {
        "_data_files": [{"filename": "data.arrow"}],
        "_fingerprint": "x",
        "_split": "train",
        "_indices_data_files": None,
    }
)
DICT = dumped({"splits": ["train", "test"]})


def make_hf(chance: Random) -> bytes:
    """The first byte says which file of the folder is the case."""
    names = ("train", "data.arrow", "_split", "filename", "splits", "..", "../train")
    kind = chance.randrange(3)
    content = mutated(arrow_files)(chance) if kind == 2 else of_json(names)(chance, (STATE, DICT)[kind])
    return bytes([kind]) + content


def read_hf(data: bytes, folder: Path) -> None:
    """A dataset of two splits as `save_to_disk` writes it, one of whose files is the case."""
    kind, content = data[0], data[1:]
    for split in ("train", "test"):
        (folder / split).mkdir(exist_ok=True)
        put(content if kind == 0 else STATE, folder / split, "state.json")
        put(content if kind == 2 else arrow_files()[0], folder / split, "data.arrow")
    put(content if kind == 1 else DICT, folder, "dataset_dict.json")
    check_inside(read_huggingface(HuggingFaceData(repository="."), folder), folder)


def changed_json(document: bytes, words: tuple[str, ...] = WORDS) -> Callable[[Random], bytes]:
    return lambda chance: of_json(words)(chance, document)


def alone(document: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: (document,)


def changed_text(document: bytes, words: tuple[str, ...]) -> Callable[[Random], bytes]:
    return lambda chance: of_text(words)(chance, document)


def make_jsonl(chance: Random) -> bytes:
    """Lines, one of them changed."""
    lines = [dumped(row) for row in ROWS]
    at = chance.randrange(len(lines))
    lines[at] = of_json(WORDS)(chance, lines[at])
    return b"\n".join(lines)


TARGETS = (
    Target(
        name="csv",
        sound=alone(CSV),
        make=changed_text(CSV, CSV_WORDS),
        read=table_reader("t.csv", weight_column="weight", flip_column="flip"),
    ),
    Target(
        name="json table",
        sound=alone(dumped(ROWS)),
        make=changed_json(dumped(ROWS)),
        read=table_reader("t.json", weight_column="weight"),
    ),
    Target(
        name="jsonl",
        sound=alone(b"\n".join(map(dumped, ROWS))),
        make=make_jsonl,
        read=table_reader("t.jsonl", weight_column="weight"),
    ),
    Target(
        name="parquet",
        sound=lambda: parquet_files()[:6],
        make=mutated(parquet_files, (b"PAR1",)),
        read=table_reader("t.parquet"),
    ),
    Target(
        name="arrow",
        sound=lambda: arrow_files()[:2],
        make=mutated(arrow_files, (b"\xff\xff\xff\xff",)),
        read=table_reader("t.arrow"),
    ),
    Target(name="hugging face", sound=alone(b"\0" + STATE), make=make_hf, read=read_hf),
)
