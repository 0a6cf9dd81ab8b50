"""Every kind of file becomes the same upright sRGB picture."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from velatura.data.images import Look, decode, fit, normalise

Array = np.ndarray[Any, np.dtype[np.uint8]]


def stored(shown: Array, orientation: int) -> Array:
    """The pixels that a camera stores so that `shown` appears, by the table of the EXIF standard (tag 274)."""
    height, width = shown.shape[:2]
    swapped = orientation >= 5
    out = np.empty((width, height, 3) if swapped else (height, width, 3), np.uint8)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            out[row, column] = {  # where the stored row 0 and column 0 are seen
                1: lambda r, c: shown[r, c],  # top, left
                2: lambda r, c: shown[r, width - 1 - c],  # top, right
                3: lambda r, c: shown[height - 1 - r, width - 1 - c],  # bottom, right
                4: lambda r, c: shown[height - 1 - r, c],  # bottom, left
                5: lambda r, c: shown[c, r],  # left, top
                6: lambda r, c: shown[c, width - 1 - r],  # right, top
                7: lambda r, c: shown[height - 1 - c, width - 1 - r],  # right, bottom
                8: lambda r, c: shown[height - 1 - c, r],  # left, bottom
            }[orientation](row, column)
    return out


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(shown: Array, orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind in ("JPEG", "AVIF") else {"lossless": True} if kind == "WEBP" else {}
    return encoded(Image.fromarray(stored(shown, orientation)), kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_shown_upright(picture: Array, kind: str, orientation: int) -> None:
    shown = np.asarray(decode(with_orientation(picture, orientation, kind)))
    assert shown.shape == picture.shape
    corners = [(4, 4), (4, -4), (-4, 4), (-4, -4)]
    for row, column in corners:
        np.testing.assert_allclose(shown[row, column], picture[row, column], atol=12 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_holds_when_a_jpeg_is_decoded_smaller(orientation: int) -> None:
    big = np.kron(np.array([[0, 1], [2, 3]], np.uint8), np.ones((128, 256), np.uint8))
    data = with_orientation(np.stack([big * 80] * 3, -1), orientation, "JPEG")
    shown = decode(data, at_least=64)
    assert shown.size == (128, 64)  # a quarter of 512 x 256
    assert decode(data, at_least=65).size == (256, 128)
    levels = [int(np.asarray(shown)[y, x, 0]) for y in (16, 48) for x in (32, 96)]
    np.testing.assert_allclose(levels, [0, 80, 160, 240], atol=4)


def test_an_impossible_orientation_is_ignored(picture: Array) -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    data = encoded(Image.fromarray(picture), "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(decode(data)), picture)


def test_cmyk_with_adobes_inversion() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # full magenta and yellow: red
    data = encoded(ink, "JPEG", quality=100)
    assert b"Adobe" in data
    np.testing.assert_allclose(np.asarray(decode(data))[8, 8], (255, 0, 0), atol=4)


@pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0), ("grey", 128)])
def test_transparency_shows_the_background(background: Any, level: int) -> None:
    half = np.zeros((2, 2, 4), np.uint8)
    half[..., 0], half[0, :, 3], half[1, :, 3] = 255, 255, 128
    half[0, 0, 3] = 0
    shown = np.asarray(decode(encoded(Image.fromarray(half), "PNG"), background)).astype(int)
    np.testing.assert_array_equal(shown[0, 0], (level, level, level))
    np.testing.assert_array_equal(shown[0, 1], (255, 0, 0))
    blend = round(level * 127 / 255)
    np.testing.assert_allclose(
        shown[1, 0], (round(255 * 128 / 255 + level * 127 / 255), blend, blend), atol=1
    )


def test_palette_with_a_transparent_colour() -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    data = encoded(image, "PNG", transparency=1)
    expected = [[[255, 0, 0], [255, 255, 255]], [[0, 0, 255], [0, 0, 255]]]
    np.testing.assert_array_equal(np.asarray(decode(data)), expected)


def test_palette_with_partly_transparent_colours() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([0, 0, 0, 0, 0, 0])
    data = encoded(image, "PNG", transparency=bytes([255, 51]))
    np.testing.assert_allclose(np.asarray(decode(data))[0, :, 0], [0, 204], atol=1)


def test_grey_with_alpha() -> None:
    data = encoded(Image.fromarray(np.array([[[100, 255], [100, 0]]], np.uint8), "LA"), "PNG")
    np.testing.assert_array_equal(np.asarray(decode(data))[0], [[100] * 3, [255] * 3])


def test_one_bit() -> None:
    data = encoded(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), "PNG")
    np.testing.assert_array_equal(np.asarray(decode(data))[0], [[0] * 3, [255] * 3])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    values = np.array([[0, 257, 30000, 65535]], np.uint16)
    shown = np.asarray(decode(encoded(Image.fromarray(values), kind)))[0, :, 0]
    np.testing.assert_array_equal(shown, [0, 1, 117, 255])  # v * 255 / 65535


def test_sixteen_bit_colour() -> None:
    rows = b"\0" + np.full((4, 3), 30000, ">u2").tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 4, 1, 16, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    np.testing.assert_allclose(np.asarray(decode(data)), 117, atol=1)


def test_float_tiff() -> None:
    data = encoded(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), "TIFF")
    np.testing.assert_array_equal(np.asarray(decode(data))[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(np.asarray(decode(data))[8, 8], (255, 0, 0))


def test_a_colour_profile_is_converted_to_srgb() -> None:
    linear = Image.new("RGB", (8, 8), (128, 128, 128))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
    broken = encoded(linear, "PNG", icc_profile=b"no profile at all")
    np.testing.assert_array_equal(np.asarray(decode(broken)), 128)
    other = encoded(linear, "PNG", icc_profile=profile.tobytes())  # for other colours than the image has
    assert decode(other).mode == "RGB"


def test_a_profile_for_swapped_colours_is_followed(picture: Array) -> None:
    """A display profile whose red and blue primaries are exchanged shows red pixels as blue."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    name = profile.find("sRGB".encode("utf-16-be"))
    profile[name : name + 8] = "swap".encode("utf-16-be")
    shown = np.asarray(decode(encoded(Image.fromarray(picture), "PNG", icc_profile=bytes(profile))))
    np.testing.assert_allclose(shown[4, 4], (0, 0, 255), atol=3)
    np.testing.assert_allclose(shown[-4, 4], (255, 0, 0), atol=3)


def test_other_formats_are_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path, "PPM")
    with pytest.raises(OSError):
        decode(path.read_bytes())


def test_prepare_covers_and_crops_the_centre() -> None:
    columns = np.repeat(np.arange(128, dtype=np.uint8)[None] * 2, 32, 0)
    image = Image.fromarray(np.stack([columns] * 3, -1))
    pixels = normalise(fit(image, Look(bucket=(32, 32))))
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(
        pixels[0, 0].numpy(), (columns[0, 48:80] / 127.5) - 1, atol=1e-6
    )  # no scaling: exact
    mirrored = normalise(fit(image, Look(bucket=(32, 32), flip=True)))
    torch.testing.assert_close(mirrored, pixels.flip(-1))


def test_scaling_keeps_the_aspect_ratio() -> None:
    """A circle in 300 x 200 is a circle in 97 x 64: both diameters are scaled by 0.325."""
    y, x = np.mgrid[0:200, 0:300]
    disc = (((x - 149.5) ** 2 + (y - 99.5) ** 2) < 80**2).astype(np.uint8) * 255
    pixels = fit(Image.fromarray(np.stack([disc] * 3, -1)), Look(bucket=(97, 64)))
    across = (pixels[0, 32].float() / 255).sum().item()
    down = (pixels[0, :, 48].float() / 255).sum().item()
    assert across == pytest.approx(160 * 97 / 300, abs=1.0)
    assert down == pytest.approx(across, abs=1.0)


def test_enlarging() -> None:
    assert fit(Image.new("RGB", (10, 7), (9, 9, 9)), Look(bucket=(64, 48))).unique().tolist() == [9]


def test_normalise_reaches_both_ends() -> None:
    torch.testing.assert_close(
        normalise(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([-1.0, 1.0])
    )
