"""What a step of a real training holds, and nothing else that lives in the process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from velatura.placement.recompute import Policy
from velatura.planning.measuring import measure

from ..tiny import recipe
from .conftest import sections


def test_tensors_of_others_do_not_count(tmp_path: Path, photos: Path, flux: Path) -> None:
    wanted = recipe(tmp_path, flux, **sections())
    alone = measure(wanted, tmp_path)
    others = torch.ones(2**20)
    beside = measure(wanted.model_copy(update={"name": "beside"}), tmp_path)
    assert others.sum() == 2**20
    # small tables that the first run made are there for the second
    assert beside.resident == pytest.approx(alone.resident, rel=0.01)
    assert beside.peak == pytest.approx(alone.peak, rel=0.01)


@pytest.mark.parametrize("policy", [False, "mlp", 2, True])
@pytest.mark.parametrize("weights", ["full", "nf4"])
def test_of_streamed_weights_a_step_keeps_nothing(
    tmp_path: Path, photos: Path, flux: Path, policy: Policy, weights: str
) -> None:
    """Its activations are those of weights that stay, whether blocks are fetched again or run again."""
    grown = []
    for share in (0.0, 1.0):
        memory = {"weights": weights, "streamed": share}
        training = {"checkpoint_blocks": policy}
        wanted = recipe(
            tmp_path, flux, name=f"streamed-{share}", **sections(memory=memory, training=training)
        )
        found = measure(wanted, tmp_path)
        grown.append(found.peak - found.resident)
    assert grown[1] == pytest.approx(grown[0], rel=0.01)
