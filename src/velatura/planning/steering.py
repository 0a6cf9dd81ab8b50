"""What the denoiser computes of many times before the first of them, and holds while it paints."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from velatura.interfaces import Conditioning, Family, Parts
from velatura.planning.replay import VALUELESS
from velatura.sampling.painter import TOGETHER
from velatura.sampling.request import Request


def steered(family: Family, parts: Parts, request: Request, conditioning: Conditioning) -> int:
    """Bytes of conditioning that is known of all times, beside the conditioning itself.

    `parts` have a whole denoiser, with storage and without values; `conditioning`: an item for each text.
    """
    with VALUELESS, torch.no_grad():
        times = torch.zeros(times_together(request))
        made = family.along(parts, conditioning, times, guidance=float(request.guidance or 0.0))
    own = _storages([conditioning])
    return sum(size for key, size in _storages(made).items() if key not in own)


def times_together(request: Request) -> int:
    """For how many times conditioning is computed at once."""
    return min(request.steps or 1, TOGETHER)


def _storages(found: Sequence[Conditioning]) -> dict[int, int]:
    """Bytes of what some conditionings hold, by storage."""
    tensors = [tensor for one in found for tensor in one.tensors.values()]
    return {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
