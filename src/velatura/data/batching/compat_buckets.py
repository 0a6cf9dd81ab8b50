"""The choice of a bucket as sd-scripts makes it, for `compat = "sd-scripts"`."""

from __future__ import annotations

from collections.abc import Sequence

from velatura.data.batching.buckets import Bucket


def assign_as_sd_scripts(width: int, height: int, buckets: Sequence[Bucket]) -> Bucket:
    """An image's own size if that is a bucket, else the nearest ratio; of equally near ones the narrowest.

    Its measure is the plain difference of width / height, so that tall buckets are nearer to each other than the same
    buckets turned: a tall image and the same image turned may get buckets that are not the same turned.
    """
    if (width, height) in buckets:
        return width, height
    ratio = width / height
    return min(sorted(buckets), key=lambda bucket: abs(bucket[0] / bucket[1] - ratio))
