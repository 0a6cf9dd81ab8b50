"""Tensors in parts, as two processes write them, are read whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from velatura.errors import CheckpointError
from velatura.training.distribution.part_files import PartFiles


def write(path: Path, parts: dict[str, tuple[Tensor, list[int]]]) -> None:
    offsets = {name: {"saved_offsets": at} for name, (_, at) in parts.items()}
    save_file(
        {name: part for name, (part, _) in parts.items()}, path, {"DCP_SHARDING_INFO": json.dumps(offsets)}
    )


def test_parts_are_put_together(tmp_path: Path) -> None:
    whole, step = torch.arange(15.0).view(5, 3), torch.tensor(7.0)
    write(tmp_path / "1.safetensors", {"w": (whole[:3].clone(), [0, 0]), "step": (step, [])})
    write(tmp_path / "2.safetensors", {"w": (whole[3:].clone(), [3, 0])})
    found = PartFiles(tmp_path)
    assert set(found) == {"w", "step"}
    assert torch.equal(found["w"], whole)
    assert torch.equal(found["step"], step)


def test_a_missing_part_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "2.safetensors", {"w": (torch.ones(2, 3), [3, 0])})
    with pytest.raises(CheckpointError, match="'w' is not there as a whole"):
        PartFiles(tmp_path)["w"]
