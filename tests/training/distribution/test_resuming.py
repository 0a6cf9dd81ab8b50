"""A run is resumed by any number of processes, as long as they make the same batches together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .conftest import Start, Team
from .test_equality import COMMON

FULL: dict[str, Any] = {"full": {"parts": ["denoiser"]}, "ema": {"decay": 0.9, "saved": "both"}}
CONSTANT = {"learning_rate": 0.01, "schedule": "constant"}


def start(together: Start, processes: int, *options: str, steps: int, into: str, **sections: Any) -> Team:
    training = {"steps": steps, "batch_size": 2 // processes, "save_every": 2}
    common = {**COMMON, "optimizer": CONSTANT, "previews": {}, **sections}
    team = together(processes, *options, training=training, into=into, **common)
    assert team.codes == [0] * processes, team.said
    return team


@pytest.mark.parametrize(
    ("before", "after", "sections"),
    [
        pytest.param(2, 2, {}, id="adapter", marks=pytest.mark.slow),
        pytest.param(2, 2, FULL, id="shared out"),
        pytest.param(2, 1, FULL, id="shared out, then alone", marks=pytest.mark.slow),
        pytest.param(1, 2, FULL, id="alone, then shared out", marks=pytest.mark.slow),
    ],
)
def test_resumed_is_never_stopped(together: Start, before: int, after: int, sections: dict[str, Any]) -> None:
    start(together, before, steps=3, into="stopped", **sections)
    resumed = start(together, after, "--resume", steps=6, into="stopped", **sections)
    whole = start(together, before, steps=6, into="whole", **sections)
    exact = before == after
    assert resumed.losses[-3:] == (whole.losses[-3:] if exact else pytest.approx(whole.losses[-3:], abs=1e-6))
    expected = whole.result()
    for name, value in resumed.result().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0 if exact else 1e-5)


@pytest.mark.slow
def test_another_batch_is_another_run(together: Start) -> None:
    start(together, 2, steps=2, into="stopped")
    alone = together(
        1,
        "--resume",
        training={"steps": 4, "batch_size": 1, "save_every": 2},
        into="stopped",
        **{**COMMON, "optimizer": CONSTANT, "previews": {}},
    )
    assert alone.codes == [2]
    assert "training.batch_size was 2, is 1" in alone.said[0]


@pytest.mark.slow
def test_batches_by_tokens_are_those_of_all(together: Start) -> None:
    """Where all sizes divide them: of 8, 9, 15 and 16 tokens here."""
    for processes, steps in ((2, 2), (1, 4)):
        made = together(
            processes,
            "--resume",
            training={"steps": steps, "batch_tokens": 1440 // processes, "save_every": 2},
            into="stopped",
            **{**COMMON, "optimizer": CONSTANT, "previews": {}},
        )
        assert made.codes == [0] * processes, made.said
