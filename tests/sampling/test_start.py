"""The picture that painting starts from: whatever a path may lead to is read rightly or refused."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from velatura.errors import RecipeError
from velatura.sampling.start import read_start


def refusal(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        read_start(path).decoded()
    return str(caught.value).removeprefix(f"--image {path} cannot be read: ")


def test_a_picture_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 16), "red").save(tmp_path / "a.jpg", exif=exif)
    start = read_start(tmp_path / "a.jpg")
    assert (start.header.width, start.header.height) == (16, 32)
    assert start.decoded().size == (16, 32)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.png") == "there is no such file"
    assert refusal(tmp_path) == "not a regular file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_what_never_ends_is_not_begun(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert refusal(tmp_path / "pipe.png") == "not a regular file"
    assert refusal(Path("/dev/zero")) == "not a regular file"


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("a text")
    assert refusal(tmp_path / "text.png").startswith("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    assert refusal(tmp_path / "empty.png") == "empty file (0 bytes)"


def test_a_damaged_picture_is_refused(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    assert refusal(tmp_path / "cut.png").startswith("damaged: ")
    (tmp_path / "hole.png").write_bytes(data[:200] + data[1500:])  # its end is there
    assert refusal(tmp_path / "hole.png").startswith("damaged: ")


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert refusal(path).startswith("too many pixels: ")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(2**30 + 1)
    assert refusal(path) == "larger than 1 GiB"
