"""What a user takes away: adapter files in the formats asked for, or a model folder."""

from __future__ import annotations

from pathlib import Path

import torch

from velatura.adapters.files import write_adapter
from velatura.interfaces import Parts
from velatura.training.metadata import training_metadata
from velatura.training.setup import Setup
from velatura.training.trainables import Trainables

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def export(setup: Setup, parts: Parts, trainables: Trainables, step: int) -> list[Path]:
    """Write the trained values as they are now; returns the paths."""
    output = setup.recipe.output
    dtype = DTYPES[output.save_dtype]
    if trainables.adapter is None:
        path = setup.folder.model(step)
        setup.family.save(parts, setup.files, path, trainables.parts, dtype=dtype)
        return [path]
    assert parts.denoiser is not None
    split = any(target.shares for target in setup.family.targets(parts.denoiser))
    paths = []
    for number, layout in enumerate(output.formats):
        path = setup.folder.adapter(step, "" if number == 0 else f"-{layout}")
        metadata = training_metadata(setup, step, trainables.adapter)
        write_adapter(path, trainables.adapter, split=split, layout=layout, dtype=dtype, metadata=metadata)
        paths.append(path)
    return paths
