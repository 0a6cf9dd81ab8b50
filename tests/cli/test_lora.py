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


def test_a_dtype_that_cannot_hold_the_values_is_refused(velatura: Run, tmp_path: Path) -> None:
    stem, file, out = (
        "lora_unet_double_blocks_0_img_attn_proj",
        tmp_path / "x.safetensors",
        tmp_path / "y.safetensors",
    )
    up = torch.ones(8, 4)
    up[3, 2] = -7e4
    save_file({f"{stem}.lora_down.weight": torch.ones(4, 8), f"{stem}.lora_up.weight": up}, file)
    ended = velatura("lora", "convert", file, "--dtype", "fp16", "--out", out)
    assert ended.code == 1
    assert f"'{stem}.lora_up.weight' has a value as large as 70000; fp16 ends at 65504" in ended.err
    assert not out.exists()
    assert velatura("lora", "convert", file, "--dtype", "bf16", "--out", out).code == 0
    up[0, 0] = torch.nan
    save_file({f"{stem}.lora_down.weight": torch.ones(4, 8), f"{stem}.lora_up.weight": up}, file)
    ended = velatura("lora", "convert", file, "--to", "diffusers", "--out", tmp_path / "z.safetensors")
    assert ended.code == 1
    assert "lora_B.weight' holds NaN or infinity" in ended.err
    assert not (tmp_path / "z.safetensors").exists()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_values_are_shown_and_become_bf16(velatura: Run, tmp_path: Path, dtype: torch.dtype) -> None:
    stem, file, out = (
        "lora_unet_double_blocks_0_img_attn_qkv",
        tmp_path / "x.safetensors",
        tmp_path / "y.safetensors",
    )
    down, up = torch.randn(4, 8).to(dtype), torch.randn(24, 4).to(dtype)
    save_file(
        {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(3.0)},
        file,
    )
    shown = velatura("lora", "info", file)
    assert shown.code == 0, shown.err
    assert str(dtype).removeprefix("torch.") in shown.out
    for to in ("diffusers", "kohya"):
        ended = velatura("lora", "convert", file, "--to", to, "--out", out)
        assert ended.code == 0, ended.err
        file = out
    found = load_file(out)
    assert torch.equal(found[f"{stem}.lora_up.weight"], up.bfloat16())
    assert torch.equal(found[f"{stem}.lora_down.weight"], down.bfloat16())


def test_8_bit_values_are_merged(velatura: Run, tmp_path: Path, tiny_model: Path) -> None:
    stem = "lora_unet_double_blocks_0_img_attn_proj"
    down, up = torch.randn(2, 32).to(torch.float8_e4m3fn), torch.randn(32, 2).to(torch.float8_e4m3fn)
    save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}, tmp_path / "x.safetensors")
    ended = velatura(
        "lora", "merge", f"{tmp_path / 'x.safetensors'}:0.5", "--model", tiny_model, "--out", tmp_path / "m"
    )
    assert ended.code == 0, ended.err
    key = "transformer_blocks.0.attn.to_out.0.weight"
    file = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(tiny_model / file)[key], load_file(tmp_path / "m" / file)[key]
    torch.testing.assert_close(after, before + 0.5 * up.float() @ down.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("strength", ["nan", "inf", "-inf", "1e999"])
def test_a_strength_that_is_no_number(velatura: Run, lora_file: Path, tmp_path: Path, strength: str) -> None:
    ended = velatura(
        "lora", "merge", f"{lora_file}:{strength}", "--model", "pocket/flux", "--out", tmp_path / "m"
    )
    assert ended.code == 2
    assert "for example dog.safetensors:0.8" in ended.err


def test_merging_beyond_the_range_of_fp16(velatura: Run, tmp_path: Path, tiny_model: Path) -> None:
    stem, out = "lora_unet_double_blocks_0_img_attn_proj", tmp_path / "m"
    large = {
        f"{stem}.lora_down.weight": torch.full((2, 32), 300.0),
        f"{stem}.lora_up.weight": torch.full((32, 2), 300.0),
    }
    save_file(large, tmp_path / "x.safetensors")
    ended = velatura(
        "lora",
        "merge",
        tmp_path / "x.safetensors",
        "--model",
        tiny_model,
        "--out",
        out,
        "--precision",
        "fp16",
    )
    assert ended.code == 1
    assert "'transformer/transformer_blocks.0.attn.to_out.0.weight' has a value as large as" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
