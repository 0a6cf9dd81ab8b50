"""What a user takes away: adapter files in the formats asked for, or a model folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from velatura.adapters.files import write_adapter
from velatura.interfaces import Parts
from velatura.training.distribution.sharding import whole_weights
from velatura.training.ema import LABELS, Weights
from velatura.training.metadata import training_metadata
from velatura.training.rehearsal import sketch_parts
from velatura.training.setup import Setup
from velatura.training.trainables import Trainables

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def whole_parts(setup: Setup, parts: Parts) -> Parts:
    """The parts as they can be written: a denoiser that is shared out is put together, for the leader alone."""
    if not setup.sharded or parts.denoiser is None:
        return parts
    weights = whole_weights(parts.denoiser, setup.team)
    if not setup.team.leads:
        return parts
    whole = sketch_parts(setup, ["denoiser"]).denoiser
    assert whole is not None
    whole.load_state_dict(weights, assign=True)
    return replace(parts, denoiser=whole)


def export(
    setup: Setup, parts: Parts, trainables: Trainables, step: int, weights: Weights = "raw"
) -> list[Path]:
    """Write the trained values as they are now, under the name of `weights`; returns the paths."""
    output = setup.recipe.output
    dtype = DTYPES[output.save_dtype]
    if trainables.adapter is None:
        path = setup.folder.model(step, LABELS[weights])
        setup.family.save(parts, setup.files, path, trainables.parts, dtype=dtype)
        return [path]
    assert parts.denoiser is not None
    split = any(target.shares for target in setup.family.targets(parts.denoiser))
    paths = []
    for number, layout in enumerate(output.formats):
        path = setup.folder.adapter(step, LABELS[weights] + (f"-{layout}" if number else ""))
        metadata = training_metadata(setup, step, trainables.adapter, weights)
        write_adapter(path, trainables.adapter, split=split, layout=layout, dtype=dtype, metadata=metadata)
        paths.append(path)
    return paths
