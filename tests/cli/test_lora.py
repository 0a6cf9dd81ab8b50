from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

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


def test_info_on_another_file_says_what_it_is(velatura: Run, tiny_model: Path) -> None:
    file = tiny_model / "transformer" / "diffusion_pytorch_model.safetensors"
    ended = velatura("lora", "info", file)
    assert ended.code == 2
    assert "this looks like a FLUX denoiser (1 + 2 blocks, 64 input channels, without guidance)" in ended.err
    assert "a LoRA was wanted" in ended.err


def test_merge_keeps_the_files_dtypes_unless_told(velatura: Run, tmp_path: Path, tiny_model: Path) -> None:
    """Of a model in float32, whatever this machine's own precision is."""
    lora = tmp_path / "x.safetensors"
    stem = "lora_unet_double_blocks_0_img_attn_proj"
    save_file(
        {f"{stem}.lora_down.weight": torch.ones(2, 32), f"{stem}.lora_up.weight": torch.ones(32, 2)}, lora
    )
    for words, dtype in (((), torch.float32), (("--precision", "fp16"), torch.float16)):
        out = tmp_path / f"m{len(words)}"
        ended = velatura("lora", "merge", lora, "--model", tiny_model, "--out", out, *words)
        assert ended.code == 0, ended.err
        written = load_file(out / "transformer" / "diffusion_pytorch_model.safetensors")
        assert {tensor.dtype for tensor in written.values()} == {dtype}
        assert f"{out}: {tiny_model} with 1 LoRA\n" in ended.out
