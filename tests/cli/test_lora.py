from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

Run = Callable[..., Any]


@pytest.fixture
def lora_file(tmp_path: Path) -> Path:
    """Two fused layers of a FLUX LoRA in kohya's layout, rank 4."""
    tensors = {}
    for block in range(2):
        stem = f"lora_unet_double_blocks_{block}_img_attn_qkv"
        tensors[f"{stem}.lora_down.weight"] = torch.ones(4, 8)
        tensors[f"{stem}.lora_up.weight"] = torch.ones(24, 4)
        tensors[f"{stem}.alpha"] = torch.tensor(2.0)
    path = tmp_path / "dog.safetensors"
    save_file(tensors, path, {"ss_base_model_version": "flux1"})
    return path


def test_info(velatura: Run, lora_file: Path) -> None:
    ended = velatura("lora", "info", lora_file)
    assert ended.code == 0, ended.err
    assert "kohya keys, rank 4, float32" in ended.out
    assert "denoiser: 2 layers" in ended.out
    assert "ss_base_model_version: flux1" in ended.out


def test_info_json(velatura: Run, lora_file: Path) -> None:
    facts = json.loads(velatura("lora", "info", lora_file, "--json").out)
    assert facts["ranks"] == [4]
    assert facts["alphas"] == [2.0]
    assert facts["values"] == 2 * (4 * 8 + 24 * 4)
    assert facts["bytes"] == lora_file.stat().st_size
    assert [sum(patterns.values()) for patterns in facts["layers"].values()] == [2]
    assert len(facts["layers"]["denoiser"]) == 1  # block numbers are left out


def test_convert_and_back(velatura: Run, lora_file: Path, tmp_path: Path) -> None:
    assert (
        velatura("lora", "convert", lora_file, "--to", "diffusers", "--out", tmp_path / "d.safetensors").code
        == 0
    )
    there = json.loads(velatura("lora", "info", tmp_path / "d.safetensors", "--json").out)
    assert there["format"] in ("diffusers", "peft")
    assert sum(there["layers"]["denoiser"].values()) == 6  # q, k and v of both blocks


def test_merge_wants_one_model(velatura: Run, lora_file: Path, tmp_path: Path) -> None:
    ended = velatura("lora", "merge", lora_file, "--out", tmp_path / "m")
    assert ended.code == 2
    assert "--model ID and --recipe FILE" in ended.err


def test_no_lora(velatura: Run, tmp_path: Path) -> None:
    ended = velatura("lora", "info", tmp_path / "none.safetensors")
    assert ended.code == 2
    assert "none.safetensors" in ended.err
