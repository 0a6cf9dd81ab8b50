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
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from velatura.data.images import Look, alpha_of, decode, fit, fit_map, normalise, recoloured
from velatura.data.items import Filter

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


EDGES = st.integers(1, 300)
PLACES = st.floats(0, 1)


@given(st.tuples(EDGES, EDGES), st.tuples(EDGES, EDGES), PLACES, PLACES)
def test_the_part_that_is_shown(size: tuple[int, int], bucket: tuple[int, int], x: float, y: float) -> None:
    """Inside the image, of the bucket's ratio, as large as can be, and where `at` says."""
    left, top, right, bottom = Look(bucket=bucket, at=(x, y)).box(*size)
    assert 0 <= left <= right <= size[0]
    assert 0 <= top <= bottom <= size[1]
    assert (right - left) * bucket[1] == pytest.approx((bottom - top) * bucket[0], rel=1e-9)
    assert right - left == pytest.approx(size[0]) or bottom - top == pytest.approx(size[1])
    assert left == pytest.approx((size[0] - (right - left)) * x, abs=1e-9)
    assert top == pytest.approx((size[1] - (bottom - top)) * y, abs=1e-9)


@pytest.mark.parametrize(("at", "first"), [((0.0, 0.5), 0), ((0.5, 0.5), 48), ((1.0, 0.5), 96)])
def test_crops_take_the_excess_where_they_are_told(at: tuple[float, float], first: int) -> None:
    ramp = Image.fromarray(np.repeat(np.arange(128, dtype=np.uint8)[None], 32, 0))
    assert fit(ramp, Look(bucket=(32, 32), at=at))[0, 5].tolist() == list(range(first, first + 32))


FILTERS: list[Filter] = ["auto", "area", "box", "bilinear", "bicubic", "lanczos", "nearest"]


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_keeps_the_mean_and_the_place(name: Filter) -> None:
    """Halves of a picture stay halves, whatever the filter, both smaller and larger."""
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 200
    for edge in (16, 32, 96, 160):
        pixels = fit(Image.fromarray(halves), Look(bucket=(edge, edge), resize=name)).float()
        assert pixels.mean().item() == pytest.approx(100, abs=2)
        middle = pixels[:, :, edge // 4]
        assert middle.max() <= 10
        assert pixels[:, :, -edge // 4].min() >= 190


def test_filters_differ_as_they_should() -> None:
    """To a half: area is the mean of each 2 x 2; nearest takes one of them; auto is lanczos."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    image = Image.fromarray(noise)

    def scaled(name: Filter, edge: int) -> torch.Tensor:
        return fit(image, Look(bucket=(edge, edge), resize=name))[0].int()

    means = torch.from_numpy(noise.reshape(16, 2, 16, 2).mean((1, 3)))
    assert (scaled("area", 16) - means).abs().max() <= 1  # rounded along each edge
    assert torch.equal(scaled("area", 16), scaled("box", 16))
    assert all(value in noise for value in scaled("nearest", 16).unique().tolist())
    assert torch.equal(scaled("auto", 16), scaled("lanczos", 16))
    assert torch.equal(scaled("auto", 48), scaled("bicubic", 48))
    different = [scaled(name, 16) for name in ("area", "bilinear", "bicubic", "lanczos", "nearest")]
    assert all(not torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 24),
    st.integers(1, 24),
    PLACES,
    st.booleans(),
)
def test_maps_are_cut_as_their_images_are(
    size: tuple[int, int], width: int, height: int, at: float, flip: bool
) -> None:
    values = np.arange(size[0] * size[1]).reshape(size[1], size[0]) % 256
    look = Look(bucket=(width, height), flip=flip, at=(at, 1 - at), resize="nearest")
    cut = fit_map(torch.from_numpy(values.astype(np.float32))[None], look)
    assert cut.shape == (1, height, width)
    image = fit(Image.fromarray(values.astype(np.uint8)), look).float()
    same = (cut == image).float().mean().item()
    assert same == 1.0 or size == (width, height) or _on_a_border(size, look)


def _on_a_border(size: tuple[int, int], look: Look) -> bool:
    """Whether the middle of a target pixel falls on the border of two source pixels: either may be taken."""
    left, top, right, bottom = look.box(*size)
    across = left + (np.arange(look.bucket[0]) + 0.5) * (right - left) / look.bucket[0]
    down = top + (np.arange(look.bucket[1]) + 0.5) * (bottom - top) / look.bucket[1]
    return any(bool((np.abs(places - places.round()) < 1e-4).any()) for places in (across, down))


def test_a_flip_is_the_mirror_image_of_the_same_part() -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    for at in ((0.5, 0.5), (0.2, 0.9)):
        plain, turned = (fit(noise, Look(bucket=(32, 32), at=at, flip=flip)) for flip in (False, True))
        assert torch.equal(plain.flip(-1), turned)


def test_transparency_alone() -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 128, 255)
    found = alpha_of(encoded(Image.fromarray(pixels), "PNG"))
    assert found is not None
    np.testing.assert_array_equal(np.asarray(found), pixels[..., 3])
    assert alpha_of(encoded(Image.new("RGB", (2, 2)), "PNG")) is None
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned = alpha_of(encoded(Image.fromarray(pixels), "PNG", exif=exif))
    assert turned is not None
    assert turned.size == (2, 3)


def test_other_colours() -> None:
    """A third of the circle turns red to green; gamma 2 takes a half to its root; grey has no hue to turn."""
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 4)
    assert recoloured(red, hue=1 / 3, gamma=1)[:, 0, 0].tolist() == pytest.approx([0, 255, 0], abs=3)
    grey = torch.full((3, 4, 4), 64, dtype=torch.uint8)
    assert torch.equal(recoloured(grey, hue=0.3, gamma=1), grey)
    assert recoloured(grey, hue=0, gamma=2).unique().tolist() == [round(255 * (64 / 255) ** 0.5)]
    assert torch.equal(recoloured(red, hue=0, gamma=1), red)
