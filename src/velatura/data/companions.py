"""Images that belong to an image, as tensors: they take the way of its pixels, each by its own kind's rules."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from velatura.data.images import Look, alpha_of, decode, fit, fit_map, normalise
from velatura.data.items import Item, Role
from velatura.data.probe import content_hash
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
    except Exception as error:  # decoders raise anything on damaged data
        raise DataError(
            f"the {role} image of {item.name} is damaged: {error or type(error).__name__}."
        ) from error


def _picture(data: bytes, look: Look) -> Tensor:
    return normalise(fit(decode(data), look))


def load_alpha(data: bytes, look: Look) -> Tensor:
    """The loss mask that an image's own transparency is, `[1, H, W]` in [0, 1]; all ones when it is opaque."""
    alpha = alpha_of(data)
    if alpha is None:
        return torch.ones(1, look.bucket[1], look.bucket[0])
    return fit(alpha, look).float().div_(255)


def _mask(data: bytes, look: Look) -> Tensor:
    return fit(decode(data), look).float().mean(0, keepdim=True).div_(255)


def _depth(data: bytes, look: Look) -> Tensor:
    return fit_map(_numbers(data).unsqueeze(0), look)


def _normals(data: bytes, look: Look) -> Tensor:
    """Flipped with their image, normals look the other way: x changes its sign."""
    values = _numbers(data)
    if values.ndim == 2:
        raise DataError("normals need three channels")
    if values.min() >= 0:  # stored as an image: 0..1, 0..255 or 0..65535
        top = 1.0 if values.max() <= 1 else 255.0 if values.max() <= 255 else 65535.0
        values = values / top * 2 - 1
    valid = values.square().sum(0, keepdim=True) > 0.25
    fitted = fit_map(torch.where(valid, values, torch.zeros(())), look)
    if look.flip:
        fitted[0] = -fitted[0]
    length = fitted.norm(dim=0, keepdim=True)
    return torch.where(length > 0.1, fitted / length.clamp(min=1e-6), torch.zeros(()))


def _numbers(data: bytes) -> Tensor:
    """The numbers of an NPY array or an image, float32 `[H, W]` or `[3, H, W]`."""
    if data.startswith(b"\x93NUMPY"):
        array = np.load(io.BytesIO(data), allow_pickle=False)
        if array.ndim == 3 and array.shape[0] not in (1, 3):
            array = array.transpose(2, 0, 1)
    else:
        image = Image.open(io.BytesIO(data))
        array = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA", "CMYK", "LA") else image)
        array = array.transpose(2, 0, 1) if array.ndim == 3 else array
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).nan_to_num_(0.0, 0.0, 0.0)
    return values[0] if values.ndim == 3 and values.shape[0] == 1 else values


_LOADERS: dict[Role, Callable[[bytes, Look], Tensor]] = {
    "reference": _picture,
    "control": _picture,
    "mask": _mask,
    "depth": _depth,
    "normals": _normals,
}
