"""Files that look like images and cannot be used are told apart before training, with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from velatura.data.scanning.probe import BadImageError, content_hash, probe


def noise(kind: str, size: tuple[int, int] = (80, 60), **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_good_images(kind: str, thorough: bool) -> None:
    data = noise(kind)
    found = probe(data, thorough=thorough)
    assert (found.width, found.height, found.frames) == (80, 60, 1)
    assert found.content == content_hash(data)
    assert len(found.content) == 32


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_as_displayed(kind: str, orientation: int, thorough: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = probe(noise(kind, exif=exif), thorough=thorough)
    assert (found.width, found.height) == ((60, 80) if orientation >= 5 else (80, 60))


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF"])
def test_truncated(kind: str, thorough: bool) -> None:
    data = noise(kind)
    with pytest.raises(BadImageError, match=r"damaged|not an image"):
        probe(data[: len(data) // 2], thorough=thorough)


@pytest.mark.parametrize("cut", [1, 2, 40, 400])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_is_found_alike_by_both_ways(kind: str, cut: int) -> None:
    data = noise(kind)[:-cut]

    def verdict(thorough: bool) -> bool:
        try:
            probe(data, thorough=thorough)
        except BadImageError:
            return False
        return True

    assert verdict(True) == verdict(False)


def test_damage_in_the_middle_is_found_by_decoding() -> None:
    data = bytearray(noise("PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BadImageError, match="damaged"):
        probe(bytes(data), thorough=True)


def test_empty_and_text() -> None:
    with pytest.raises(BadImageError, match="empty file"):
        probe(b"", thorough=False)
    with pytest.raises(BadImageError, match="not an image"):
        probe(b"a cat on a mat, in words only", thorough=False)


def test_a_bomb_is_refused_without_being_decoded() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    for thorough in (True, False):
        with pytest.raises(BadImageError, match="too many pixels"):
            probe(bomb, thorough=thorough)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animations_are_told(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 100, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    assert probe(buffer.getvalue(), thorough=True).frames > 1


def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = noise("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"junk" * 8)
    assert probe(data, thorough=True).width == 80


def test_orientation_in_compressed_xmp() -> None:
    """A PNG may hide its orientation in a compressed text chunk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp))
    data = noise("PNG")
    turned = data[:33] + text + data[33:]  # after the header chunk
    assert [probe(turned, thorough=way).width for way in (True, False)] == [60, 60]


def test_a_cameras_second_picture_is_no_animation() -> None:
    buffer = io.BytesIO()
    first, gain_map = Image.new("RGB", (40, 30), (255, 0, 0)), Image.new("RGB", (20, 15))
    first.save(buffer, "MPO", save_all=True, append_images=[gain_map])
    assert probe(buffer.getvalue(), thorough=True).frames == 1
