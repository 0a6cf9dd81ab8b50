"""Compiled blocks learn what eager blocks learn."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from .conftest import Train


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch's CPU code needs one")
@pytest.mark.parametrize("checkpoint_blocks", [False, True])
def test_compiled_blocks_learn_the_same(run: Train, checkpoint_blocks: bool) -> None:
    """To float32's rounding; layers that share a projection are fused by the compiler, not by our own memory of it."""
    sections: dict[str, Any] = {"data": {"buckets": False}, "optimizer": {"learning_rate": 0.01}}
    training = {"steps": 4, "batch_size": 3, "checkpoint_blocks": checkpoint_blocks}
    eager = run(into="eager", training=training, **sections)
    compiled = run(into="compiled", training={**training, "compile": True}, **sections)
    assert "compiling 3 blocks" in compiled.log.texts
    assert compiled.losses == pytest.approx(eager.losses, rel=1e-4)
    ours, theirs = eager.state(), compiled.state()
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-3
