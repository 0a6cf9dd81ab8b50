"""What one use of an item shows: its pixels and those of its companions, read from their files."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from velatura.data.caches.memory import Kept
from velatura.data.companions import load_alpha, load_companion
from velatura.data.images import decode, fit
from velatura.data.items import Item, Role
from velatura.data.scanning.probe import content_hash, damage
from velatura.data.views import View
from velatura.errors import DataError


def load_pixels(view: View) -> Tensor:
    """Read, decode and cut an item: uint8 `[3, H, W]`.

    Raises DataError when the file is gone, damaged, or no longer what the scan saw.
    """
    data = _read(view.item)
    try:
        background = view.item.treatment.background
        return fit(decode(data, background, at_least=2 * max(view.bucket)), view.look)
    except Exception as error:  # decoders raise anything on damaged data
        raise _damaged(view.item, error) from error


def load_companions(view: View) -> dict[Role, Tensor]:
    """All companions of an item as `companions.load_companion` gives them; the mask may be its transparency."""
    item = view.item
    found = {role: load_companion(item, role, view.look) for role in item.companions}
    if item.treatment.alpha_mask and "mask" not in found:
        try:
            found["mask"] = load_alpha(_read(item), view.look)
        except DataError:
            raise
        except Exception as error:
            raise _damaged(item, error) from error
    return found


def _read(item: Item) -> bytes:
    try:
        data = item.place.read()
    except OSError as error:
        raise DataError(f"{item.name} can no longer be read: {error.strerror or error}.") from error
    if content_hash(data) != item.content:
        raise DataError(f"{item.name} changed since it was scanned. Start again, so that it is scanned anew.")
    return data


def _damaged(item: Item, error: Exception) -> DataError:
    return DataError(
        f"{item.name} is {damage(error)}. "
        "Remove or repair it; `velatura data check` decodes every image completely."
    )


class DecodedImages:
    """Decodes views and keeps their pixels in memory while there is room. Shared between threads."""

    def __init__(self, limit: int) -> None:
        self._kept: Kept[tuple[object, ...], Tensor] = Kept(limit)
        self._companions: Kept[tuple[object, ...], dict[Role, Tensor]] = Kept(limit)

    def of(self, view: View) -> Tensor:
        """The view's pixels, uint8 `[3, H, W]`; decoded now unless they are kept. Raises DataError."""
        upright = replace(view, flip=False)  # both sides share one entry
        kept = self._kept.get(upright.key)
        if kept is None:
            kept = load_pixels(upright)
            self._kept.offer(upright.key, kept, kept.nbytes)
        return kept.flip(-1) if view.flip else kept

    def companions_of(self, view: View) -> dict[Role, Tensor]:
        """The view's companions; read now unless they are kept. Raises DataError."""
        item = view.item
        if not item.accompanied:
            return {}
        contents = tuple((role, companion.content) for role, companion in item.companions.items())
        key = (*view.key, item.treatment.alpha_mask, contents)
        kept = self._companions.get(key)
        if kept is None:
            kept = load_companions(view)
            self._companions.offer(key, kept, sum(tensor.nbytes for tensor in kept.values()))
        return kept


def stack_companions(found: list[dict[Role, Tensor]]) -> dict[str, Tensor]:
    """Companions of a batch, `[B, C, H, W]` by role. Items without a mask count everywhere."""
    roles = {role for one in found for role in one}
    size = next((tensor.shape[1:] for one in found for tensor in one.values()), torch.Size())
    whole: dict[Role, Tensor] = {"mask": torch.ones(1, *size)}
    return {role: torch.stack([one[role] if role in one else whole[role] for one in found]) for role in roles}
