"""How long what leaves the device stays there."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch

from velatura.placement.streamed.links import LEAVING, Leaving


def test_the_last_few_stay_and_others_go_once_the_computation_waits_for_their_copies() -> None:
    waited: list[Any] = []
    leaving = Leaving(waited.append)
    sources = []
    for moment in range(LEAVING + 3):
        source = torch.ones(2)
        sources.append(weakref.ref(source))
        leaving.add(source, moment)
    del source
    gc.collect()
    assert waited == [0, 1, 2]
    assert [one() is None for one in sources] == [True] * 3 + [False] * LEAVING
