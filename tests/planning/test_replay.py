"""Operations that are answered from memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from velatura.planning.devices import KNOWN
from velatura.planning.replay import VALUELESS
from velatura.planning.tracking import Tracker

OPERATIONS: dict[str, Callable[[Tensor], Any]] = {
    "product": lambda x: x @ x.t(),
    "view": lambda x: x[1:, ::2].t(),
    "several": lambda x: x.split(2),
    "views and more": lambda x: torch.nn.functional.layer_norm(x.reshape(2, -1), (24,)),
    "dtype": lambda x: x.to(torch.bfloat16),
    "order": lambda x: x.t().contiguous(),
    "in place": lambda x: x.clone().add_(1),
    "made": lambda x: torch.zeros(3, dtype=torch.int64),
    "one": lambda x: x * 1,
    "true": lambda x: x == True,  # noqa: E712
}


def described(out: Any) -> list[tuple[Any, ...]]:
    return [
        (tuple(t.shape), t.stride(), t.dtype, t.storage_offset(), t.untyped_storage().nbytes())
        for t in (out if isinstance(out, (tuple, list)) else (out,))
    ]


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_the_second_time_is_like_the_first_and_like_real_tensors(operation: Callable[[Tensor], Any]) -> None:
    real = operation(torch.zeros(6, 8))
    with VALUELESS, Tracker(KNOWN["h200"]):
        found = [described(operation(torch.zeros(6, 8))) for _ in range(3)]
    assert found == [described(real)] * 3


def test_a_view_from_memory_keeps_its_base_alive() -> None:
    tracker = Tracker(KNOWN["h200"])
    with VALUELESS, tracker:
        for _ in range(2):
            base = torch.zeros(100)
            view = base[50:]
            del base
            tracker.mark(("forward", 0))
            del view
            tracker.mark(("forward", 1))
    assert [segment.end.total for segment in tracker.segments] == [400, 0, 400, 0, 0]


def test_gradients_flow_through_views_from_memory() -> None:
    with VALUELESS, Tracker(KNOWN["h200"]):
        for _ in range(2):
            x = torch.zeros(6, 8, requires_grad=True)
            (x[2:] @ x.t()).sum().backward()
            assert x.grad is not None
            assert x.grad.shape == x.shape
