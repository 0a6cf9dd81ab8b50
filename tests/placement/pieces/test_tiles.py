"""Tiles that overlap: every place is covered, the weights of a place sum to 1."""

from __future__ import annotations

import pytest
import torch

from velatura.placement.pieces.tiles import tiled


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("overlap", [0, 1, 4, 7])
def test_an_identity_comes_back_for_every_size(overlap: int, scale: int) -> None:
    torch.manual_seed(0)
    for height in range(1, 30):
        x = torch.randn(1, 2, height, 19)
        big = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)

        def run(rows: slice, columns: slice, big: torch.Tensor = big) -> torch.Tensor:
            assert rows.stop - rows.start <= 8
            assert columns.stop - columns.start <= 8
            return big[
                :, :, rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale
            ]

        out = tiled(run, height, 19, tile=8, overlap=overlap, scale=scale)
        assert out.shape == big.shape
        assert torch.allclose(out, big, atol=1e-5)


def test_the_weight_moves_from_one_tile_to_the_next() -> None:
    """Two tiles of 0 and 1: between them it rises, and at the cut it counts for next to nothing."""
    out = tiled(
        lambda rows, columns: torch.full((1, 1, 4, 8), float(columns.start > 0)), 4, 12, tile=8, overlap=4
    )
    row = out[0, 0, 0]
    assert torch.equal(row[:4], torch.zeros(4))
    assert torch.equal(row[8:], torch.ones(4))
    assert bool((row.diff() >= 0).all())
    assert float(row[4]) < 0.05
    assert float(row[7]) > 0.95
