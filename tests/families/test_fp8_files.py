"""Files that are in fp8 already, plain and scaled: held as they are, with the results of the widened form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from velatura.adapters.attach import put_on_fresh
from velatura.checkpoints.flux_keys import flux_key_map
from velatura.checkpoints.writing import write_safetensors
from velatura.events import Events
from velatura.families.denoiser import load_denoiser
from velatura.families.flux import FluxFamily
from velatura.families.flux_forward import flux_forward
from velatura.families.text import T5
from velatura.interfaces import ModelFiles
from velatura.placement.precision.quantised import Fp8Linear

from .models import flux, t5
from .test_flux_forward import inputs

CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All in fp8 without scales, as `t5xxl_fp8_e4m3fn.safetensors`."""
    return {name: tensor.to(FP8) for name, tensor in tensors.items()}


def scaled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices in fp8 beside their scales, all else in bf16, as ComfyUI writes them."""
    file = {"scaled_fp8": torch.zeros(2, dtype=FP8)}
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and name.endswith(".weight") and "embed" not in name and "shared" not in name:
            scale = tensor.abs().amax().float() / 448
            file[name] = (tensor.float() / scale).to(FP8)
            file[name.removesuffix("weight") + "scale_weight"] = scale
        else:
            file[name] = tensor.bfloat16()
    return file


def t5_file(path: Path, layout: Any) -> Path:
    tensors = {
        name: value for name, value in t5().state_dict().items() if name != "encoder.embed_tokens.weight"
    }
    write_safetensors(path, layout(tensors))
    return path


def flux_file(path: Path, layout: Any) -> Path:
    """As BFL names it: q, k and v are rows of one tensor, which has one scale."""
    pending = flux_key_map(double_blocks=2, single_blocks=2).to_file(flux(guidance=True).state_dict())
    write_safetensors(path, layout({name: tensor.make() for name, tensor in pending.items()}))
    return path


def held(module: nn.Module) -> list[Fp8Linear]:
    return [layer for layer in module.modules() if isinstance(layer, Fp8Linear)]


@pytest.mark.parametrize("layout", [plain, scaled])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_t5_gives_the_same_bit_for_bit_in_a_byte_a_weight(
    tmp_path: Path, layout: Any, dtype: torch.dtype
) -> None:
    path = t5_file(tmp_path / "t5xxl_fp8.safetensors", layout)
    wide: Any = T5.load(path, device=CPU, dtype=dtype)
    small: Any = T5.load(path, device=CPU, dtype=dtype, keep_fp8=lambda encoder: [encoder])
    linear = [layer for layer in wide.modules() if isinstance(layer, nn.Linear)]
    assert len(held(small)) == len(linear) > 0
    assert not [layer for layer in small.modules() if isinstance(layer, nn.Linear)]
    assert [layer.values.nbytes for layer in held(small)] == [layer.weight.numel() for layer in linear]
    ids = torch.tensor([[3, 5, 7, 0], [8, 1, 0, 0]])
    assert torch.equal(small(ids).last_hidden_state, wide(ids).last_hidden_state)
    rounded = (small(ids).last_hidden_state.float() - t5()(ids).last_hidden_state).norm()
    assert float(rounded / t5()(ids).last_hidden_state.norm()) < 0.1


@pytest.mark.parametrize("layout", [plain, scaled])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_flux_gives_the_same_bit_for_bit_with_a_lora_on_top(
    tmp_path: Path, flux_folder: Path, layout: Any, dtype: torch.dtype
) -> None:
    path = flux_file(tmp_path / "flux_fp8.safetensors", layout)
    family, files = FluxFamily(), ModelFiles(model=str(flux_folder), denoiser=str(path))
    wide = family.load(files, ["denoiser"], device=CPU, dtype=dtype).denoiser
    assert wide is not None
    small = load_denoiser(family, files, Events(), weights="fp8", device=CPU, dtype=dtype)
    in_blocks = [layer for block in family.blocks(small) for layer in block.modules()]
    assert held(small) == [layer for layer in in_blocks if isinstance(layer, Fp8Linear)]
    assert not [layer for layer in in_blocks if type(layer) is nn.Linear]
    results = []
    for denoiser in (wide, small):
        targets = [target for target in family.targets(denoiser) if target.group in ("attention", "mlp")]
        adapter = put_on_fresh(denoiser, targets, rank=2, alpha=2, seed=0)
        for parameter in adapter.parameters().values():
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
        given = inputs(guidance=True)
        cast = {name: getattr(given, name).detach().to(dtype) for name in ("tokens", "text", "pooled")}
        out = flux_forward(denoiser, type(given)(**{**vars(given), **cast}))
        found = torch.autograd.grad(out.float().square().sum(), list(adapter.parameters().values()))
        results.append((out, *found))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_nothing_is_held_unless_it_is_asked_for(tmp_path: Path) -> None:
    path = t5_file(tmp_path / "t5.safetensors", plain)
    assert not held(T5.load(path, device=CPU, dtype=torch.float32))
    assert not held(T5.load(path, device=torch.device("meta"), dtype=torch.float32))


def test_on_the_meta_device_too(tmp_path: Path) -> None:
    path = t5_file(tmp_path / "t5.safetensors", scaled)
    sketched = held(
        T5.load(path, device=torch.device("meta"), dtype=None, keep_fp8=lambda encoder: [encoder])
    )
    assert sketched
    assert all(layer.values.is_meta and layer.values.dtype == FP8 for layer in sketched)
