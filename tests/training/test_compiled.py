"""Compiled blocks learn what eager blocks learn."""

from __future__ import annotations

import itertools
import shutil
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

from .conftest import Train, equal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch's CPU code needs one"),
]


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


def test_compiled_runs_that_stop_go_on_as_if_they_had_not(run: Train) -> None:
    """Bit for bit, though the process that goes on meets the two sizes in another order."""
    training = {"steps": 5, "batch_size": 2, "compile": True}
    whole = run(into="whole", training=training)
    torch.compiler.reset()  # as in a new process
    run(into="parted", training=training, stop_after=3)
    torch.compiler.reset()
    parted = run(into="parted", training=training, resume=True)
    assert parted.losses == whole.losses[3:]
    assert equal(parted.state(), whole.state())


def test_graphs_do_not_grow_with_the_sizes(run: Train) -> None:
    """One for the double block, one for the single one, one for the last; with and without several items in a batch."""
    counters = torch._dynamo.utils.counters
    torch.compiler.reset()
    counters.clear()
    run(training={"steps": 5, "batch_size": 2, "compile": True}, previews={"prompts": ["a cube"], "every": 5})
    assert 3 <= counters["stats"]["unique_graphs"] <= 3 * 2


@pytest.mark.parametrize("fails_at", [0, 4])
def test_a_compiler_that_fails_costs_no_step(
    run: Train, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """Not even where blocks of this step were run compiled: a recomputed one must be run as it was before."""
    training = {"steps": 3, "checkpoint_blocks": True}
    eager = run(into="eager", training=training)
    calls = itertools.count()

    def compiled(function: Any, **options: Any) -> Any:
        def fast(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == fails_at:
                raise BackendCompilerFailed(nn.Identity(), RuntimeError("ptxas died"), None)  # type: ignore[arg-type]
            out = function(*args, **kwargs)
            return tuple(map(torch.clone, out)) if isinstance(out, tuple) else out.clone()

        return fast

    monkeypatch.setattr(torch, "compile", compiled)
    failing = run(into="failing", training={**training, "compile": True})
    assert failing.losses == eager.losses
    assert equal(failing.state(), eager.state())
    assert failing.log.texts.count("ptxas died") == 1
