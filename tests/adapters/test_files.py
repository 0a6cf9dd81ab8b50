"""Adapters on disk: what was trained comes back, and diffusers does the same with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import nn

from velatura.adapters.attach import Adapter, put_on, put_on_fresh
from velatura.adapters.files import read_adapter, write_adapter
from velatura.adapters.targets import choose
from velatura.checkpoints.loading import skeleton
from velatura.checkpoints.lora_file import Written
from velatura.checkpoints.reader import TensorFile
from velatura.families.flux_targets import flux_targets

from ..tiny import load
from .test_attach import filled, output

LAYOUTS: list[Written] = ["kohya", "diffusers", "comfy"]


def write(path: Path, adapter: Adapter, layout: Written, dtype: torch.dtype = torch.float32) -> Path:
    write_adapter(path, adapter, split=True, layout=layout, dtype=dtype, metadata={"ss_note": "mine"})
    return path


def trained(tiny_model: Path, *, share: bool = True, alpha: float = 6.0) -> tuple[Any, Any, Adapter]:
    family, parts = load(tiny_model)
    targets = choose(family.targets(parts.denoiser), "sd-scripts").targets
    adapter = put_on_fresh(parts.denoiser, targets, rank=4, alpha=alpha, seed=1, share_down=share)
    return family, parts, filled(adapter)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_written_reads_back_per_layer(
    tiny_model: Path, tmp_path: Path, layout: Written, share: bool
) -> None:
    family, parts, adapter = trained(tiny_model, share=share)
    file = write(tmp_path / "a.safetensors", adapter, layout)
    found = read_adapter(file)
    assert list(found) == ["denoiser"]
    assert found["denoiser"].keys() == adapter.layers.keys()
    with torch.no_grad():
        expected = output(family, parts)
        deltas = {path: layer.delta() for path, layer in adapter.layers.items()}
        adapter.take_off()
        again = put_on(parts.denoiser, found["denoiser"])
        for path, layer in again.layers.items():
            torch.testing.assert_close(layer.delta(), deltas[path], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(output(family, parts), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_that_shared_share_again(tiny_model: Path, tmp_path: Path, layout: Written) -> None:
    """In a file of split layers each has its A; kohya and ComfyUI have one for the fused layer, as we do."""
    _, parts, adapter = trained(tiny_model)
    count = len(adapter.parameters())
    found = read_adapter(write(tmp_path / "a.safetensors", adapter, layout))["denoiser"]
    adapter.take_off()
    again = put_on(parts.denoiser, found)
    assert len(again.parameters()) == (count if layout != "diffusers" else 2 * len(again.layers))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_are_rounded_once(tiny_model: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    _, _, adapter = trained(tiny_model)
    found = read_adapter(write(tmp_path / "a.safetensors", adapter, "kohya", dtype))["denoiser"]
    for path, value in found.items():
        assert torch.equal(value.up, adapter.layers[path].up.detach().to(dtype).float())
        assert torch.equal(value.down, adapter.layers[path].down.weight.detach().to(dtype).float())


def test_equal_adapters_give_equal_files(tiny_model: Path, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.safetensors", trained(tiny_model)[2], "kohya") for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


@torch.no_grad()
@pytest.mark.parametrize("alpha", [4.0, 6.0])
def test_diffusers_loads_our_file_and_paints_the_same(tiny_model: Path, tmp_path: Path, alpha: float) -> None:
    family, parts, adapter = trained(tiny_model, alpha=alpha)
    expected = output(family, parts)
    write(tmp_path / "a.safetensors", adapter, "diffusers")
    adapter.take_off()
    bare = output(family, parts)
    others = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = FluxPipeline(transformer=parts.denoiser, **others)
    pipe.load_lora_weights(tmp_path / "a.safetensors")
    assert (bare - expected).abs().max() > 1e-2
    torch.testing.assert_close(output(family, parts), expected, rtol=1e-5, atol=1e-5)
    pipe.unload_lora_weights()
    torch.testing.assert_close(output(family, parts), bare)


def hollow_flux() -> nn.Module:
    """FLUX.1-dev at its true size, every weight one zero that is repeated: no memory, but a real device."""
    model: nn.Module = skeleton(lambda: FluxTransformer2DModel(guidance_embeds=True))
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False))
    return model


def test_a_file_of_the_true_model_has_sd_scripts_names_and_shapes(tmp_path: Path) -> None:
    """The names of sd-scripts' `networks.lora_flux`, whose 304 modules ComfyUI and A1111 look for."""
    host = hollow_flux()
    adapter = put_on_fresh(host, choose(flux_targets(host), "sd-scripts").targets, rank=2, alpha=1, seed=0)
    file = write(tmp_path / "a.safetensors", adapter, "kohya", torch.bfloat16)
    d, shapes = 3072, {}
    stream = {
        "attn_qkv": (d, 9216),
        "attn_proj": (d, d),
        "mlp_0": (d, 12288),
        "mlp_2": (12288, d),
        "mod_lin": (d, 18432),
    }
    for i in range(19):
        for side in ("img", "txt"):
            shapes |= {f"lora_unet_double_blocks_{i}_{side}_{leaf}": size for leaf, size in stream.items()}
    for i in range(38):
        leaves = {"linear1": (d, 21504), "linear2": (15360, d), "modulation_lin": (d, 9216)}
        shapes |= {f"lora_unet_single_blocks_{i}_{leaf}": size for leaf, size in leaves.items()}
    assert len(shapes) == 304
    with TensorFile(file) as tensors:
        found = {key: tuple(tensors.shape(key)) for key in tensors}
    expected: dict[str, tuple[int, ...]] = {}
    for name, (inside, outside) in shapes.items():
        expected[f"{name}.lora_down.weight"] = (2, inside)
        expected[f"{name}.lora_up.weight"] = (outside, 2)
        expected[f"{name}.alpha"] = ()
    assert found == expected
