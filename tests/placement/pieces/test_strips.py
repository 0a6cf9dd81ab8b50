"""Rows of a network equal those of the whole, whatever the strips."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from velatura.placement.pieces import strips
from velatura.placement.pieces.strips import Rows, added, convolved, doubled, kept, normalised, stored


def reach_across(x: Tensor) -> dict[str, tuple[Rows, Tensor]]:
    """Each kind of step on `[2, 4, H, W]`, and the same by torch on the whole."""
    torch.manual_seed(1)
    three, two = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2)
    norm = nn.GroupNorm(2, 4)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    source = stored(x)
    return {
        "convolution": (convolved(source, three), three(x)),
        "stride": (convolved(source, two, more=(0, 1)), two(F.pad(x, (0, 1, 0, 1)))),
        "norm": (normalised(source, norm, F.silu), F.silu(norm(x))),
        "doubled": (doubled(source), F.interpolate(x, scale_factor=2.0, mode="nearest")),
        "sum": (added(source, doubled(convolved(source, two, more=(0, 1)))), x + F.interpolate(two(F.pad(x, (0, 1, 0, 1))), scale_factor=2.0)),
    }  # fmt: skip


@pytest.mark.parametrize("least", [1, 3, 64])
@pytest.mark.parametrize("height", [10, 26])
@torch.no_grad()
def test_steps_equal_the_whole(least: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "LEAST", least)
    monkeypatch.setattr(strips, "STRIP", 1)
    x = 100 + torch.randn(2, 4, height, 12)  # a mean that a sum of squares would drown in
    for name, (rows, wanted) in reach_across(x).items():
        assert (2, *rows.shape) == wanted.shape, name
        assert torch.allclose(kept(rows), wanted, atol=2e-3 if name == "norm" else 1e-4), name


@torch.no_grad()
def test_a_block_can_replace_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP", 1)
    one, two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    x = torch.randn(1, 4, 41, 5)
    wanted = x + two(one(x))
    out = kept(added(stored(x), convolved(convolved(stored(x), one), two)), over=x)
    assert out is x
    assert torch.allclose(out, wanted, atol=1e-5)


def test_strips_cover_every_row_once() -> None:
    take: Callable[[int, int], Tensor] = lambda a, b: torch.empty(0)  # noqa: E731
    for height in (1, 7, 8, 9, 100):
        spans = list(strips.strips(Rows(shape=(2**20, height, 64), take=take)))
        assert [row for a, b in spans for row in range(a, b)] == list(range(height))
