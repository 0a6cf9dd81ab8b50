"""What a step's loss was for each item, and at which noise level: for messages that name items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NAMED = 8  # items in a message


@dataclass(frozen=True, kw_only=True)
class ItemLoss:
    """The loss of one item at noise level t (None where an objective has none)."""

    name: str
    value: float
    t: float | None


def item_losses(names: Sequence[str], per_item: Tensor, t: Tensor | None) -> list[ItemLoss]:
    """Of losses `[B]` at noise levels t `[B]`, in one transfer from the device."""
    rows = [per_item.detach().float()] if t is None else [per_item.detach().float(), t.float()]
    values, *times = torch.stack(rows).tolist()
    levels = times[0] if times else [None] * len(names)
    return [
        ItemLoss(name=name, value=value, t=at) for name, value, at in zip(names, values, levels, strict=True)
    ]


def not_finite(items: Sequence[ItemLoss]) -> list[ItemLoss]:
    """Those whose loss is nan or infinite."""
    return [item for item in items if not math.isfinite(item.value)]


def named(items: Sequence[ItemLoss]) -> str:
    """`dog.png (t = 0.731), cat.png (t = 0.112) and 3 more`, each item once."""
    texts = list(
        dict.fromkeys(item.name + ("" if item.t is None else f" (t = {item.t:.3g})") for item in items)
    )
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more
