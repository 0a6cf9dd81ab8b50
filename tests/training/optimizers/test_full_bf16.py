"""Whole parts in bf16: they compute, learn, and are saved as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from ..conftest import Train

CASES: dict[str, dict[str, Any]] = {
    "text encoders too": {"full": {"parts": ["denoiser", "text_encoders"]}},
    "recomputed": {"full": {}, "training": {"checkpoint_blocks": True}},
}


@pytest.mark.parametrize("case", CASES)
def test_parts_in_bf16_learn(run: Train, case: str) -> None:
    sections: Mapping[str, Any] = CASES[case]
    done = run(
        full={**sections["full"], "weights": "bf16"},
        optimizer={"kind": "adafactor", "learning_rate": 0.01, "clip": 0, "fused_backward": True},
        training={"steps": 8, "precision": "bf16", "batch_size": 4, **sections.get("training", {})},
    )
    assert done.outcome.exit_code == 0
    assert {value.dtype for value in done.state().values()} == {torch.bfloat16}
    assert min(done.losses[4:]) < done.losses[0]
