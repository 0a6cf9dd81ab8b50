"""Is this file an image that training can use? Answered before the first step, from its bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from velatura.checkpoints.stamps import Stamp
from velatura.data.images import allow_pixels, open_image, orientation
from velatura.data.places import Place

MAX_BYTES = 2**30
_TURNED = range(5, 9)  # EXIF orientations that swap width and height
_PNG_TURNS = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type")  # where a PNG can hide an orientation


class BadImageError(Exception):
    """A file that cannot be used as an image; the message is the reason."""


def damage(error: Exception) -> str:
    """What a decoder says of a damaged file: they raise anything, from SyntaxError to struct.error."""
    return f"damaged: {str(error) or type(error).__name__}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What is known of a usable image file."""

    width: int  # pixels, as displayed
    height: int
    content: str  # as `Item.content`
    frames: int = 1  # more than 1: animated, only the first is used; counted up to 2


def image_stamp(place: Place) -> Stamp:
    """The stamp of what may be read as an image. Raises BadImageError: it is gone, no regular file, too large."""
    with _reasons():
        stamp = place.stamp()
    if stamp[0] > MAX_BYTES:
        raise BadImageError(f"larger than {MAX_BYTES // 2**30} GiB")
    return stamp


def image_bytes(place: Place) -> bytes:
    """All bytes of what `image_stamp` allows. Raises BadImageError."""
    with _reasons():
        return place.read()


def read_image(place: Place, *, max_pixels: int | None = None) -> tuple[bytes, Probe]:
    """All bytes of an image, and what its header says. Raises BadImageError."""
    image_stamp(place)
    data = image_bytes(place)
    return data, probe(data, thorough=False, max_pixels=max_pixels)


@contextmanager
def _reasons() -> Iterator[None]:
    """What the system refuses as the reason why an image cannot be used."""
    try:
        yield
    except FileNotFoundError:
        raise BadImageError("a broken link, or deleted just now") from None
    except OSError as error:
        reason = f"cannot be read: {error.strerror}" if error.strerror else str(error)
        raise BadImageError(reason) from None


def content_hash(data: bytes) -> str:
    """The identity of a file's content: blake2b, 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def probe(data: bytes, *, thorough: bool, max_pixels: int | None = None) -> Probe:
    """Check an image file's bytes.

    `thorough` decodes all pixels; otherwise the header is read and the end marker looked for, and only files
    whose format has none, or that miss theirs, are decoded. NPY arrays (depth, normals) are read as well. Nothing
    of more than `max_pixels` is decoded. Raises BadImageError with the reason.
    """
    if not data:
        raise BadImageError("empty file (0 bytes)")
    if max_pixels is not None:
        allow_pixels(max_pixels)
    try:
        return _probe(data, thorough, max_pixels)
    except UnidentifiedImageError:
        raise BadImageError(
            "not an image, or of a kind that is not read (png, jpg, webp, bmp, tiff, gif and avif are)"
        ) from None
    except Image.DecompressionBombError as error:
        allowed = "" if max_pixels is None else f"more than the {max_pixels:,} that max_pixels allows: "
        raise BadImageError(f"too many pixels: {allowed}{error}") from None
    except BadImageError:
        raise
    except MemoryError:
        raise BadImageError("too large to decode in memory") from None
    except Exception as error:
        raise BadImageError(damage(error)) from None


def _probe(data: bytes, thorough: bool, max_pixels: int | None) -> Probe:
    if data.startswith(b"\x93NUMPY"):
        return _probe_array(data, max_pixels)
    image = open_image(data)
    size = image.size
    check_pixels(size, max_pixels)
    turn = 1 if _surely_upright(image, data) else None
    if thorough or not _has_end(image, data):
        if image.format == "JPEG" or image.format == "MPO":
            image.draft(None, (1, 1))  # an eighth of the size; still reads every byte
            image.load()
        else:
            image.load()
            size = image.size  # TIFF turns itself while it loads
    if turn is None:
        turn = orientation(image)
    width, height = size if turn not in _TURNED else (size[1], size[0])
    if min(width, height) < 1:
        raise BadImageError(f"has no pixels ({width}x{height})")
    return Probe(width=width, height=height, content=content_hash(data), frames=_frames(image))


def check_pixels(size: tuple[int, int], max_pixels: int | None) -> None:
    """Raise BadImageError for an image of more than `max_pixels`."""
    count = size[0] * size[1]
    if max_pixels is not None and count > max_pixels:
        raise BadImageError(f"has {count:,} pixels ({size[0]}x{size[1]}); max_pixels allows {max_pixels:,}")


def _probe_array(data: bytes, max_pixels: int | None) -> Probe:
    """An array `[H, W]`, `[H, W, C]` or `[C, H, W]`; never one of Python objects."""
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
        raise BadImageError(f"an array of shape {array.shape} and type {array.dtype} is no map of numbers")
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    height, width = array.shape[:2]
    check_pixels((width, height), max_pixels)
    return Probe(width=width, height=height, content=content_hash(data))


def _surely_upright(image: Image.Image, data: bytes) -> bool:
    """Reading a PNG's EXIF decodes the picture: avoid it where there can be none."""
    return image.format == "PNG" and not any(mark in data for mark in _PNG_TURNS)


def _has_end(image: Image.Image, data: bytes) -> bool:
    """True when the file's own end marker is there, so that nothing was cut off."""
    if image.format in ("JPEG", "MPO"):
        return data.rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    if image.format == "PNG":
        return data.endswith(b"IEND\xaeB`\x82")
    if image.format == "WEBP":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    if image.format == "GIF":
        return data.endswith(b";")
    return False


def _frames(image: Image.Image) -> int:
    """1 for a still picture; MPO's second picture is a camera's depth or gain map, not an animation."""
    if image.format == "MPO":
        return 1
    return 2 if getattr(image, "is_animated", False) else 1
