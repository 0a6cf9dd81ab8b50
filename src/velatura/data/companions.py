"""Images that belong to an image, as tensors: they take the way of its pixels, each by its own kind's rules."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor

from velatura.data.images import Look, alpha_of, decode, fit, fit_map, normalise, open_image, orientation
from velatura.data.items import Item, Role
from velatura.data.scanning.probe import content_hash, damage
from velatura.errors import DataError


def load_companion(item: Item, role: Role, look: Look) -> Tensor:
    """One companion of an item, cut and turned as its image is: float32.

    reference, control: `[3, H, W]` in [-1, 1]. mask: `[1, H, W]` in [0, 1]. depth: `[1, H, W]` as stored, 0 where
    there is none. normals: `[3, H, W]`, unit vectors (x right, y up, z to the viewer), 0 where there are none.
    Raises DataError when the file is gone, damaged, or no longer what the scan saw.
    """
    companion = item.companions[role]
    try:
        data = companion.place.read()
        if content_hash(data) != companion.content:
            raise DataError(f"the {role} image of {item.name} changed since it was scanned. Start again.")
        return _LOADERS[role](data, look)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"the {role} image of {item.name} is {damage(error)}.") from error


def _picture(data: bytes, look: Look) -> Tensor:
    return normalise(fit(decode(data), look))


def load_alpha(data: bytes, look: Look) -> Tensor:
    """The loss mask that an image's own transparency is, `[1, H, W]` in [0, 1]; all ones when it is opaque."""
    alpha = alpha_of(data)
    if alpha is None:
        return torch.ones(1, look.bucket[1], look.bucket[0])
    return fit(alpha, look).float().div_(255)


def _mask(data: bytes, look: Look) -> Tensor:
    """The mean of the channels; what is transparent does not count."""
    return fit(decode(data, "black"), look).float().mean(0, keepdim=True).div_(255)


def _depth(data: bytes, look: Look) -> Tensor:
    values = _real(_numbers(data))
    if values.ndim == 2:
        values = values.unsqueeze(0)
    if (values != values[:1]).any():
        raise ValueError(f"a depth map has one channel, this has {len(values)} different ones")
    return fit_map(values[:1], look)


def _normals(data: bytes, look: Look) -> Tensor:
    """Flipped with their image, normals look the other way: x changes its sign."""
    numbers = _numbers(data)
    if numbers.ndim != 3 or len(numbers) != 3:
        raise ValueError(f"normals have three channels, this is of shape {tuple(numbers.shape)}")
    values = _vectors(fit_map(numbers, look), halved=_are_halved(numbers))
    length = values.norm(dim=0, keepdim=True)
    there = (length > 0.5) & (length < 1.5)  # black and grey pixels stand for none
    fitted = torch.where(there, values, torch.zeros(()))
    if look.flip:
        fitted[0] = -fitted[0]
    unit: Tensor = fitted / fitted.norm(dim=0, keepdim=True).clamp(min=1e-6)
    return unit


def _vectors(numbers: Tensor, *, halved: bool) -> Tensor:
    """Normals n as vectors; `halved`: as (n + 1) / 2."""
    if numbers.is_floating_point():
        values = _real(numbers)
    else:
        values = numbers.float() / (255 if numbers.dtype == torch.uint8 else 65535)
    return values * 2 - 1 if halved else values


def _are_halved(numbers: Tensor) -> bool:
    """Whether normals n are stored as (n + 1) / 2: images hold that as integers, arrays of floats either."""
    if not numbers.is_floating_point():
        return True
    values = _real(numbers)
    lengths = values.norm(dim=0)
    units = ((lengths - 1).abs() < 0.02).sum() > (lengths > 0).sum() / 2
    return bool(values.min() >= 0) and not bool(units)


def _real(values: Tensor) -> Tensor:
    """float32; what is no number becomes 0."""
    return values.float().nan_to_num_(0.0, 0.0, 0.0)


def _numbers(data: bytes) -> Tensor:
    """The numbers of an NPY array or an image as they are stored, `[H, W]` or `[C, H, W]`."""
    if data.startswith(b"\x93NUMPY"):
        array = np.load(io.BytesIO(data), allow_pickle=False)
        if array.ndim == 3 and array.shape[0] not in (1, 3):
            array = array.transpose(2, 0, 1)
    else:
        image = open_image(data)
        image.load()
        if orientation(image) != 1:
            image = ImageOps.exif_transpose(image)
        array = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA", "CMYK", "LA") else image)
        array = array.transpose(2, 0, 1) if array.ndim == 3 else array
    small = array.dtype in (np.bool_, np.uint8)
    kind = np.float32 if array.dtype.kind == "f" else np.uint8 if small else np.int64
    return torch.from_numpy(np.ascontiguousarray(array, dtype=kind))


_LOADERS: dict[Role, Callable[[bytes, Look], Tensor]] = {
    "reference": _picture,
    "control": _picture,
    "mask": _mask,
    "depth": _depth,
    "normals": _normals,
}
