"""Image files to tensors: every kind of file becomes plain sRGB, upright and opaque, then fits its bucket."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, features
from torch import Tensor

from velatura.data.items import Background, Filter

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


def allow_pixels(count: int) -> None:
    """Let Pillow decode pictures of up to `count` pixels; its own limit is never lowered.

    The limit is one for the whole process: whoever raises it checks the pixels of what is decoded.
    """
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, -(-count // 2))  # it refuses beyond twice this


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


def decode(data: bytes, background: Background = "white", *, at_least: int | None = None) -> Image.Image:
    """Decode a file's bytes to an upright RGB image in sRGB; of an animation, the first frame.

    Transparency shows `background`; CMYK and colour profiles are converted; 16-bit grey is scaled to 8 bits.
    `at_least` lets JPEGs be decoded at a half, a quarter or an eighth of their size, as long as both edges
    keep that many pixels: several times faster for camera photos. Raises what Pillow raises on a damaged
    file.
    """
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How one use of an image is cut out of it; its mask and other companions are cut the same way."""

    bucket: tuple[int, int]  # width, height
    flip: bool = False
    at: tuple[float, float] = (
        0.5,
        0.5,
    )  # where the excess is cut: 0 keeps the left or upper end, 1 the other
    resize: Filter = "auto"
    inset: tuple[float, float, float, float] = (
        0,
        0,
        0,
        0,
    )  # shares that are cut away first: left, top, right, bottom

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of an image of this size that is shown: left, top, right, bottom, fractions of pixels."""
        x, y = width * self.inset[0], height * self.inset[1]
        right, bottom = width * (1 - self.inset[2]), height * (1 - self.inset[3])
        scale = max(self.bucket[0] / (right - x), self.bucket[1] / (bottom - y))
        shown = min(self.bucket[0] / scale, right - x), min(self.bucket[1] / scale, bottom - y)
        left, top = x + (right - x - shown[0]) * self.at[0], y + (bottom - y - shown[1]) * self.at[1]
        return left, top, min(left + shown[0], right), min(top + shown[1], bottom)


def fit(image: Image.Image, look: Look) -> Tensor:
    """Scale an RGB or L image to cover the look's bucket and cut out its part; uint8 `[C, H, W]`.

    Scaling and cropping are one step with fractional borders, so the aspect ratio is kept exactly.
    """
    if image.size != look.bucket:
        box = look.box(*image.size)
        shrinks = box[2] - box[0] >= look.bucket[0]
        image = image.resize(look.bucket, _filter(look.resize, shrinks), box=box)
    if look.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    array = np.array(image)
    return torch.from_numpy((array[None] if array.ndim == 2 else array.transpose(2, 0, 1)).copy())


def fit_map(values: Tensor, look: Look) -> Tensor:
    """Cut a map of numbers `[C, H, W]` as `fit` cuts its image, by the nearest value: numbers are never mixed."""
    height, width = values.shape[1:]
    left, top, right, bottom = look.box(width, height)
    columns = (left + (torch.arange(look.bucket[0]) + 0.5) * (right - left) / look.bucket[0]).long()
    rows = (top + (torch.arange(look.bucket[1]) + 0.5) * (bottom - top) / look.bucket[1]).long()
    cut = values[:, rows.clamp(max=height - 1)][:, :, columns.clamp(max=width - 1)]
    return cut.flip(-1) if look.flip else cut


def alpha_of(data: bytes) -> Image.Image | None:
    """The transparency of an image, upright, as mode L; None when it has none. Raises what Pillow raises."""
    image = open_image(data)
    image.load()
    if orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    return image.convert("RGBA").getchannel("A") if image.has_transparency_data else None


def recoloured(pixels: Tensor, hue: float, gamma: float) -> Tensor:
    """uint8 `[3, H, W]` with its hue turned by a share of the circle and its values raised to 1 / gamma."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    if hue:
        bands = np.array(image.convert("HSV"))
        bands[..., 0] = (bands[..., 0].astype(np.int16) + round(hue * 256)) % 256
        image = Image.fromarray(bands, "HSV").convert("RGB")
    if gamma != 1:
        table = (255 * (np.arange(256) / 255) ** (1 / gamma)).round().astype(np.uint8)
        return torch.from_numpy(table[np.array(image)].transpose(2, 0, 1).copy())
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def _filter(name: Filter, shrinks: bool) -> Image.Resampling:
    """Pillow's filters take the mean over what they shrink, so its box filter is what others call area."""
    if name == "auto":
        return Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    return Image.Resampling["BOX" if name == "area" else name.upper()]


def normalise(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1], same shape."""
    return pixels.to(torch.float32).div_(127.5).sub_(1)


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
