"""How gradients are put together to be added up."""

from __future__ import annotations

import pytest
import torch

from velatura.training.distribution import team


def test_gradients_are_added_up_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "PIECE", 10)
    sizes = [[4, 6], [1], [30], [5, 5], [2]]
    gradients = [torch.zeros(size) for piece in sizes for size in piece]
    found = list(team._pieces(gradients))
    assert [[one.numel() for one in piece] for piece in found] == sizes
    assert [one for piece in found for one in piece] == gradients
    assert list(team._pieces([])) == []
