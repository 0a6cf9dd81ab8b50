"""Small pictures of exactly what the denoiser will see, as data that a page can hold."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from velatura.data.batching.buckets import crop_loss
from velatura.data.batching.plan import Entry
from velatura.data.checking.check import Checked
from velatura.data.decoded import load_companions, load_pixels
from velatura.data.items import Role
from velatura.data.progress import phase
from velatura.data.views import View
from velatura.errors import DataError
from velatura.events import Events

BUDGET = 14 * 2**20  # bytes of all pictures in a page
SAMPLE = 48  # items that are shown though nothing is wrong with them
_EDGES = ((800, 192), (1800, 128), (3200, 96))  # up to so many pictures: pixels of their longer edge
_SMALLEST = 64
_AHEAD = 64
_CROPS = 2  # of the random ones
_NAMES: dict[Role, str] = {
    "reference": "reference: before the edit",
    "control": "control",
    "mask": "mask: red does not count",
    "depth": "depth: dark is small, black unknown",
    "normals": "normals",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One thumbnail."""

    label: str  # "as trained", "flipped", "mask"…
    use: int = 0  # pictures of one use belong side by side
    uri: str  # a JPEG as a data URI
    width: int
    height: int


def shown_items(checked: Checked) -> list[int]:
    """The items that the page shows: all with findings, and an even sample of the others."""
    suspicious = {finding.item for finding in checked.findings}
    others = [i for i in checked.entries if i not in suspicious]
    step = max(1, len(others) // SAMPLE)
    return sorted(i for i in suspicious if i in checked.entries) + others[::step][:SAMPLE]


def pictures_of(checked: Checked, items: Sequence[int], events: Events) -> dict[int, list[Picture]]:
    """The pictures of items, until the page's budget is spent; those that cannot be decoded have none."""
    each = max((_count(checked.entries[i][0]) for i in items), default=1)
    edge = next((edge for most, edge in _EDGES if len(items) * each <= most), _SMALLEST)
    found: dict[int, list[Picture]] = {}
    spent = 0

    def make(i: int) -> list[Picture]:
        try:
            return _pictures(checked.entries[i][0], edge)
        except DataError:
            return []  # it is among the damaged

    with (
        phase(events, "thumbnails", len(items)) as progress,
        ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="thumbnails") as pool,
    ):
        for start in range(0, len(items), _AHEAD):
            if spent >= BUDGET:
                break
            chunk = items[start : start + _AHEAD]
            for i, made in zip(chunk, pool.map(make, chunk), strict=True):
                size = sum(len(picture.uri) for picture in made)
                if spent + size <= BUDGET:
                    found[i] = made
                    spent += size
                progress.advance()
    return found


def _count(entry: Entry) -> int:
    """How many pictures show an entry, at most."""
    return len(_views(entry)) * (1 + len(entry.item.companions) + entry.item.treatment.alpha_mask)


def _pictures(entry: Entry, edge: int) -> list[Picture]:
    """An entry as its uses show it, and its companions beside it; a flip turns all of them."""
    made = []
    for use, (label, view) in enumerate(_views(entry).items()):
        pixels = load_pixels(view)
        made.append(_picture(label, use, pixels, edge))
        for role, values in load_companions(view).items():
            named = _NAMES[role] if label == "as trained" else f"{_NAMES[role]}, {label}"
            made.append(_picture(named, use, _visible(role, values, pixels), edge))
    return made


def _views(entry: Entry) -> Mapping[str, View]:
    """What the uses of an entry may show."""
    treatment = entry.item.treatment
    flip = treatment.flip >= 1
    cut = crop_loss(entry.item.width, entry.item.height, entry.bucket) > 0
    if treatment.random_crop and cut:
        return {
            f"random crop {crop}": View(item=entry.item, bucket=entry.bucket, flip=flip, crop=crop)
            for crop in range(1, min(_CROPS, treatment.crops) + 1)
        }
    views = {"as trained": View(item=entry.item, bucket=entry.bucket, flip=flip)}
    if 0 < treatment.flip < 1:
        views["flipped"] = View(item=entry.item, bucket=entry.bucket, flip=True)
    return views


def _visible(role: Role, values: Tensor, pixels: Tensor) -> Tensor:
    """A companion as uint8 `[3, H, W]`; a mask is laid over its image: red does not count."""
    if role == "mask":
        red = torch.tensor([255.0, 0.0, 0.0]).view(3, 1, 1)
        counts = values.clamp(0, 1) * 0.65 + 0.35
        shown = pixels.float() * counts + red * (1 - counts)
    elif role == "depth":
        known = values > 0
        low, high = (values[known].min(), values[known].max()) if known.any() else (0.0, 1.0)
        shown = ((values - low) / max(float(high - low), 1e-9)).clamp(0, 1).expand(3, -1, -1) * 255
    else:
        shown = (values + 1) * 127.5
    return shown.round().clamp(0, 255).to(torch.uint8)


def _picture(label: str, use: int, pixels: Tensor, edge: int) -> Picture:
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(label=label, use=use, uri=uri, width=image.width, height=image.height)
