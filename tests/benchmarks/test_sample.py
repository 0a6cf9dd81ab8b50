"""The contestants of benchmarks/sample.py paint the same."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from velatura.families.flux import pack


@pytest.mark.parametrize("cfg", [False, True])
def test_both_paint_the_same(cfg: bool) -> None:
    sample = import_module("sample")
    tokens = import_module("step_shape").SIZES["256+128"]
    case = sample.Case(
        batch=2, cfg=cfg, steps=3, dtype=torch.float32, device=torch.device("cpu"), tokens=tokens, toy=True
    )
    ours, theirs = pack(sample.ours(case, False)()), sample.plain(case, False)()
    assert theirs.std() > 0.5
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
