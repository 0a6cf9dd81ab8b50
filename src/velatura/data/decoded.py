"""Decoded images in memory: uint8, at their bucket's size, up to a limit of bytes."""

from __future__ import annotations

from torch import Tensor

from velatura.data.buckets import Bucket
from velatura.data.images import decode, fit
from velatura.data.items import Item
from velatura.data.memory import Kept
from velatura.data.probe import content_hash
from velatura.errors import DataError


def load_pixels(item: Item, bucket: Bucket) -> Tensor:
    """Read, decode and fit an item: uint8 `[3, H, W]`.

    Raises DataError when the file is gone, damaged, or no longer what the scan saw.
    """
    try:
        data = item.path.read_bytes()
    except OSError as error:
        raise DataError(f"{item.name} can no longer be read: {error.strerror or error}.") from error
    if content_hash(data) != item.content:
        raise DataError(f"{item.name} changed since it was scanned. Start again, so that it is scanned anew.")
    try:
        return fit(decode(data, item.background, at_least=2 * max(bucket)), bucket)
    except Exception as error:  # decoders raise anything on damaged data
        raise DataError(
            f"{item.name} is damaged: {error or type(error).__name__}. "
            "Remove or repair it; `velatura data check` decodes every image completely."
        ) from error


class DecodedImages:
    """Decodes items and keeps their pixels in memory while there is room. Shared between threads."""

    def __init__(self, limit: int) -> None:
        self._kept: Kept[tuple[str, str, Bucket], Tensor] = Kept(limit)

    def of(self, item: Item, bucket: Bucket) -> Tensor:
        """The item's pixels, uint8 `[3, H, W]`; decoded now unless they are kept. Raises DataError."""
        key = (item.content, item.background, bucket)
        kept = self._kept.get(key)
        if kept is None:
            kept = load_pixels(item, bucket)
            self._kept.offer(key, kept, kept.nbytes)
        return kept
