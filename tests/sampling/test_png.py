"""PNG files that say how they were made."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from velatura.errors import RecipeError, StorageError
from velatura.sampling.png import read_record, save_png
from velatura.sampling.request import Request

PICTURE = Image.linear_gradient("L").resize((6, 4)).convert("RGB")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
REQUESTS = st.builds(
    Request,
    prompt=TEXT,
    negative=TEXT,
    seed=st.integers(0, 2**63 - 1),
    steps=st.none() | st.integers(1, 1000),
    guidance=st.none() | st.floats(0, 100),
    strength=st.floats(0.01, 1),
    first=st.integers(0, 2**40),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(REQUESTS, st.dictionaries(TEXT.filter(lambda key: key != "request"), st.integers() | TEXT))
def test_what_was_saved_is_read(tmp_path: Path, request_: Request, facts: dict[str, Any]) -> None:
    path = tmp_path / "a.png"
    save_png(PICTURE, path, request_, facts)
    assert read_record(path) == (request_, facts)
    with Image.open(path) as image:
        assert image.convert("RGB").tobytes() == PICTURE.tobytes()


def test_same_input_same_bytes_whatever_the_order_of_facts(tmp_path: Path) -> None:
    request = Request(prompt="a")
    save_png(PICTURE, tmp_path / "a.png", request, {"x": 1, "y": 2})
    save_png(PICTURE, tmp_path / "b.png", request, {"y": 2, "x": 1})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_what_a1111_shows(tmp_path: Path) -> None:
    request = Request(
        prompt="a fox, ünïcode", negative="blur", seed=7, steps=4, width=64, height=32, cfg=2.0, guidance=3.5
    )
    save_png(PICTURE, tmp_path / "a.png", request, {"sampler": "DDIM"})
    with Image.open(tmp_path / "a.png") as image:
        shown = image.info["parameters"]
    first, second, third = shown.split("\n")
    assert first == "a fox, ünïcode"
    assert second == "Negative prompt: blur"
    assert third == "Steps: 4, Sampler: DDIM, CFG scale: 2.0, Seed: 7, Size: 64x32, Distilled CFG Scale: 3.5"


def test_nothing_is_left_of_a_write_that_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(image: Image.Image, path: Path, **_: Any) -> None:
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_png(PICTURE, tmp_path / "a.png", Request(prompt="a"), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(RecipeError, match=r"a\.png is no regular file"):
        read_record(tmp_path / "a.png")


def test_keys_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    _write(path, {"request": {"prompt": "a", "seed": 3, "of_tomorrow": [1]}, "place": 0})
    assert read_record(path) == (Request(prompt="a", seed=3), {"place": 0})


def _write(path: Path, record: object) -> None:
    """A 1 x 1 PNG made by hand, with a `velatura` text."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    text = chunk(b"tEXt", b"velatura\0" + json.dumps(record).encode())
    body = chunk(b"IDAT", zlib.compress(b"\0\1\2\3"))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + text + body + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        "text",
        {},
        {"request": None},
        {"request": {}},
        {"request": {"prompt": "a", "steps": "many"}},
        {"request": {"prompt": "a", "seed": [1]}},
        {"request": {"prompt": 5}},
        {"request": {"prompt": "a", "width": 1e400}},
    ],
)
def test_records_that_are_none_of_ours_are_refused(tmp_path: Path, record: object) -> None:
    path = tmp_path / "a.png"
    _write(path, record)
    with pytest.raises(RecipeError, match="holds no velatura metadata"):
        read_record(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    PICTURE.save(tmp_path / "plain.png")
    PICTURE.save(tmp_path / "photo.jpg")
    save_png(PICTURE, tmp_path / "whole.png", Request(prompt="a"), {})
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    for name in ("text.png", "plain.png", "photo.jpg", "cut.png"):
        with pytest.raises(RecipeError, match=f"{name} holds no velatura metadata"):
            read_record(tmp_path / name)
    with pytest.raises(RecipeError, match="no such file"):
        read_record(tmp_path / "none.png")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        save_png(PICTURE, tmp_path / "file" / "a.png", Request(prompt="a"), {})


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_records_inside_records_inside_records(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    header = 33  # bytes
    (tmp_path / "a.png").write_bytes(
        data[:header] + chunk(b"tEXt", b"velatura\0" + b"[" * 100_000) + data[header:]
    )
    with pytest.raises(RecipeError, match=r"no velatura metadata \(RecursionError\)"):
        read_record(tmp_path / "a.png")


def test_pixels_are_not_decoded(tmp_path: Path) -> None:
    """They may be damaged, or many."""
    path = tmp_path / "a.png"
    save_png(PICTURE, path, Request(prompt="x"), {})
    data = path.read_bytes()
    place = data.index(b"IDAT") + 4
    path.write_bytes(data[:place] + bytes(8) + data[place + 8 :])
    assert read_record(path) == (Request(prompt="x"), {})
