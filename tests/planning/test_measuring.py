"""What a step of a real training holds, and nothing else that lives in the process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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
