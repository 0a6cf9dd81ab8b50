"""Buckets: the few training sizes of about equal area among which images are shared out by aspect ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence

from velatura.errors import RecipeError

Bucket = tuple[int, int]  # width, height in pixels


def default_step(resolution: int, size_step: int) -> int:
    """Distance of bucket edges: 64 pixels from 512 up, 32 from 256 up, else as fine as the family allows."""
    wanted = 64 if resolution >= 512 else 32 if resolution >= 256 else size_step
    return math.ceil(wanted / size_step) * size_step


def make_buckets(
    resolution: float, step: int, min_edge: int | None = None, max_edge: int | None = None
) -> list[Bucket]:
    """All buckets of one resolution: edges are multiples of `step`, areas at most `resolution` squared.

    A fractional resolution is the square root of an area that is no square.
    Edges lie between `min_edge` (default: half the resolution) and `max_edge` (default: twice the
    resolution), so the aspect ratios reach from about 1:4 to 4:1. The square comes from rounding `resolution`
    down. Sorted by ratio. Raises RecipeError when not even one step fits.
    """
    square = int(resolution // step * step)
    if square < step or step < 1:
        raise RecipeError(
            f"resolution = {resolution:g} is smaller than one bucket step of {step} pixels; "
            f"received resolution = {resolution:g}, allowed is {step} or more."
        )
    low = math.ceil((resolution / 2 if min_edge is None else min_edge) / step) * step
    high = int(resolution * 2 if max_edge is None else max_edge) // step * step
    area = round(resolution * resolution)
    found = {(square, square)}
    for width in range(max(low, step), high + 1, step):
        height = min(high, area // width // step * step)
        if height >= max(low, step):
            found |= {(width, height), (height, width)}
    return sorted(found, key=lambda bucket: (bucket[0] / bucket[1], bucket))


def assign(width: int, height: int, buckets: Sequence[Bucket]) -> Bucket:
    """The bucket with the nearest aspect ratio, on a logarithmic scale; of equally near ones the largest."""
    ratio = math.log(width / height)

    def distance(bucket: Bucket) -> tuple[float, int]:
        return round(abs(math.log(bucket[0] / bucket[1]) - ratio), 9), -bucket[0] * bucket[1]

    return min(buckets, key=distance)


def own_size(width: int, height: int, area: int, step: int) -> Bucket | None:
    """The bucket of an image that is never enlarged: its own size, shrunk to `area` if it has more pixels.

    Edges are cut to whole steps, on the side where the ratio suffers less. None when an edge has less than a step.
    """
    if width * height > area:
        ratio = width / height
        by_width = int(math.sqrt(area * ratio) + 0.5) // step * step
        by_height = int(math.sqrt(area / ratio) + 0.5) // step * step
        across = by_width, int(by_width / ratio + 0.5) // step * step
        upright = int(by_height * ratio + 0.5) // step * step, by_height
        width, height = min(upright, across, key=lambda size: _stretch(size, ratio))
    bucket = width // step * step, height // step * step
    return bucket if min(bucket) else None


def _stretch(size: Bucket, ratio: float) -> float:
    """How far a size is from a ratio; infinitely far when an edge is 0."""
    return abs(size[0] / size[1] - ratio) if min(size) else math.inf


def crop_loss(width: int, height: int, bucket: Bucket) -> float:
    """Share of an image's area that is cut away when it covers `bucket`, 0..1."""
    scale = max(bucket[0] / width, bucket[1] / height)
    return max(0.0, 1 - bucket[0] * bucket[1] / (width * height * scale * scale))


def enlarges(width: int, height: int, bucket: Bucket) -> bool:
    """True when an image must be enlarged to cover `bucket`."""
    return bucket[0] > width or bucket[1] > height
