"""What `compat = "everydream2"` does: EveryDream2's hand-made buckets, and its random cut."""

from __future__ import annotations

import math
from collections.abc import Sequence

from velatura.data.batching.buckets import Bucket
from velatura.errors import RecipeError

# The landscape buckets of each resolution; portraits are the same turned, and there is the square.
_LANDSCAPES = {
    256: "384x192 512x128",
    320: "384x256 448x192 576x128",
    384: "448x320 512x256 704x192",
    448: "512x384 640x320 768x256",
    512: "576x448 640x384 768x320 896x256 1024x256",
    576: "640x512 704x448 832x384 960x320 1152x256",
    640: "704x576 768x512 832x448 896x448 1024x384 1152x320 1280x320",
    704: "768x640 832x576 960x512 1088x448 1152x384 1280x384 1280x320",
    768: "832x704 896x640 960x576 1024x576 1152x512 1280x448 1408x384 1472x320",
    832: "896x768 960x704 1024x640 1152x576 1216x512 1344x512 1536x448 1600x384",
    896: "1024x768 1088x704 1216x640 1344x576 1536x512 1792x448",
    960: "1088x832 1152x768 1280x704 1408x640 1680x576 1792x512 2048x448",
    1024: "1152x896 1216x832 1344x768 1472x704 1600x640 1792x576 2048x512",
    1088: "1152x1024 1216x896 1408x832 1536x768 1664x704 1792x640 2048x576 2304x512",
    1152: "1280x1024 1344x960 1472x896 1536x832 1728x768 1856x704 2048x640 2304x576",
    1280: "1408x1152 1600x1024 1792x896 1920x832 2112x768 2304x704 2560x640",
    1536: "1728x1344 1792x1280 2048x1152 2304x1024 2432x960 2624x896 2816x832 3072x768",
}
_MOST_JITTER = 0.02


def everydream2_buckets(resolution: int, size_step: int) -> list[Bucket]:
    """The buckets of a resolution, which is rounded down to a multiple of 64.

    Those that the family cannot have are left out: edges are multiples of `size_step`. Raises RecipeError for a
    resolution that has no table. Two portraits that are misprints there (576x640 at 320, 1408x1344 at 1280) are the
    turned landscapes here.
    """
    edge = resolution // 64 * 64
    if edge not in _LANDSCAPES:
        raise RecipeError(
            f'[[data]] resolution = {resolution} with compat = "everydream2"; EveryDream2 has buckets for '
            f"{', '.join(map(str, _LANDSCAPES))}. Choose one of these, or leave out compat."
        )
    sizes = [tuple(map(int, size.split("x"))) for size in _LANDSCAPES[edge].split()]
    every = [(edge, edge), *((w, h) for w, h in sizes), *((h, w) for w, h in sizes)]
    return [size for size in every if not size[0] % size_step and not size[1] % size_step]


def assign_as_everydream2(width: int, height: int, buckets: Sequence[Bucket]) -> Bucket:
    """The bucket whose width / height is nearest, by plain difference."""
    ratio = width / height
    return min(buckets, key=lambda bucket: abs(bucket[0] / bucket[1] - ratio))


def everydream2_cut(
    size: tuple[int, int], bucket: Bucket, chances: Sequence[float]
) -> tuple[tuple[float, float, float, float], tuple[float, float]]:
    """Where an image of this size is cut, from six uniform numbers: what goes at each side, and the place.

    Left, top, right and bottom lose up to 2 % of the shorter edge, as far as the image is larger than its bucket;
    they are shares of width and height. The place of the rest (0..1, as in `images.Look.at`) has a triangular
    distribution: the centre is likely, the ends are not.
    """
    width, height = size
    jitter = min(max(min(width / bucket[0], height / bucket[1]) - 1, 0), _MOST_JITTER)
    most = int(min(size) * jitter) + 1
    left, top, right, bottom = (int(chance * most) for chance in chances[:4])
    x, y = (_triangular(chance) for chance in chances[4:])
    return (left / width, top / height, right / width, bottom / height), (x, y)


def _triangular(chance: float) -> float:
    """The inverse of the distribution function of the triangular distribution on [0, 1] around 1/2."""
    return math.sqrt(chance / 2) if chance < 0.5 else 1 - math.sqrt((1 - chance) / 2)
