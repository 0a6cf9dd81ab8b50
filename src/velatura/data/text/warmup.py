"""Tag warm-ups that are a share of a run become a number of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from velatura.data.items import Item, Treatment


def with_warmup(items: Sequence[Item], steps: int) -> tuple[Item, ...]:
    """The items of a run of so many steps: a warm-up of 0.5 is over after half of them, rounded down."""

    @cache  # the items of a source share one treatment
    def in_steps(treatment: Treatment) -> Treatment:
        whole = math.floor(treatment.wording.warmup_steps * steps)
        return replace(treatment, wording=replace(treatment.wording, warmup_steps=whole))

    return tuple(
        replace(item, treatment=in_steps(item.treatment))
        if 0 < item.treatment.wording.warmup_steps < 1
        else item
        for item in items
    )
