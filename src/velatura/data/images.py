"""Image files to tensors: every kind of file becomes plain sRGB, upright and opaque, then fits its bucket."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, features
from torch import Tensor

from velatura.data.items import Background

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
_OPTIONAL = tuple(name for name in ("WEBP", "AVIF") if features.check(name.lower()))
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", *_OPTIONAL)  # nothing else is opened, whatever a file claims
TRANSFORM = (
    "cover, centre crop, lanczos down, bicubic up, decoder 1"  # part of cache keys: change it with the code
)

_BACKGROUNDS: dict[Background, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "black": (0, 0, 0),
}
_ORIENTATION = 0x0112
_SRGB = ImageCms.createProfile("sRGB")

# Up to Pillow's hard limit (179 million pixels) a picture is only large; beyond it Pillow refuses.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def open_image(data: bytes) -> Image.Image:
    """Read the header of an image in one of FORMATS; raises what Pillow raises."""
    return Image.open(io.BytesIO(data), formats=FORMATS)


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 when there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # metadata parsers raise anything on damaged EXIF; the pixels may still be good
        return 1
    return value if value in range(1, 9) else 1


def decode(
    source: Path | bytes, background: Background = "white", *, at_least: int | None = None
) -> Image.Image:
    """Decode a file (or its bytes) to an upright RGB image in sRGB; of an animation, the first frame.

    Transparency shows `background`; CMYK and colour profiles are converted; 16-bit grey is scaled to 8 bits.
    `at_least` lets JPEGs be decoded at a half, a quarter or an eighth of their size, as long as both edges
    keep that many pixels: several times faster for camera photos. Raises what Pillow raises on a damaged
    file.
    """
    data = source.read_bytes() if isinstance(source, Path) else source
    image = open_image(data)
    if at_least is not None:
        image.draft(None, (at_least, at_least))
    image.load()
    profile = image.info.get("icc_profile")
    if orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    image = _eight_bits(image)
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    colours = _to_srgb(image, profile)
    if alpha is None:
        return colours
    canvas = Image.new("RGB", colours.size, _BACKGROUNDS[background])
    canvas.paste(colours, mask=alpha)
    return canvas


def fit(image: Image.Image, bucket: tuple[int, int], *, flip: bool = False) -> Tensor:
    """Scale an RGB image to cover `bucket` (width, height), cut out the centre; uint8 `[3, H, W]`.

    Scaling and cropping are one step with fractional borders, so the aspect ratio is kept exactly.
    """
    width, height = bucket
    scale = max(width / image.width, height / image.height)
    left, top = (image.width - width / scale) / 2, (image.height - height / scale) / 2
    box = (
        max(left, 0.0),
        max(top, 0.0),
        min(image.width - left, image.width),
        min(image.height - top, image.height),
    )
    if image.size != bucket:
        kernel = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
        image = image.resize(bucket, kernel, box=box)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def normalise(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1], same shape."""
    return pixels.to(torch.float32).div_(127.5).sub_(1)


def prepare(image: Image.Image, bucket: tuple[int, int], *, flip: bool = False) -> Tensor:
    """An RGB image as the autoencoder wants it: float32 `[3, H, W]` in [-1, 1], of the bucket's size."""
    return normalise(fit(image, bucket, flip=flip))


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey, 32-bit integer and float images as 8-bit grey; all others as they are."""
    if image.mode.startswith("I"):
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        floats = np.nan_to_num(np.asarray(image, dtype=np.float64))
        scale = 255.0 if floats.max(initial=0.0) <= 1.0 else 1.0  # 0..1, or already 0..255
        return Image.fromarray(np.rint(np.clip(floats * scale, 0, 255)).astype(np.uint8))
    return image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours alone, as sRGB; transparency is ignored here."""
    if image.mode in ("P", "PA", "RGBA", "RGBa", "RGBX"):
        image = image.convert("RGBA").convert("RGB")  # through RGBA: palettes and premultiplied colours
    elif image.mode in ("1", "LA", "La"):
        image = image.convert("LA" if image.mode == "La" else image.mode).convert("L")
    if profile and image.mode in ("RGB", "L", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if source.profile.profile_description and "sRGB" in source.profile.profile_description:
                return image.convert("RGB")
            converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
        except (
            ImageCms.PyCMSError,
            OSError,
        ):  # a damaged profile, or one for other colours than the image has
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")
