"""A LoRA applied while painting, and the same LoRA merged into the weights: one picture."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from velatura.adapters.attach import put_on_fresh
from velatura.adapters.files import read_adapter, write_adapter
from velatura.adapters.merging import merge_into, put_on_part
from velatura.adapters.targets import choose
from velatura.checkpoints.lora_file import write_lora
from velatura.checkpoints.lora_layer import LoraFile, LoraLayer
from velatura.checkpoints.lora_layer import Part as Network
from velatura.checkpoints.reader import TensorFile
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import CheckpointError, NumericError, RecipeError
from velatura.interfaces import PARTS, ModelFiles
from velatura.sampling.painter import encode_request, filled, paint
from velatura.sampling.pipeline import Pipeline
from velatura.sampling.request import Request

from ..tiny import CPU, Log, load
from .test_attach import filled as with_values


def lora(tiny_model: Path, path: Path, seed: int) -> Path:
    family, parts = load(tiny_model)
    assert parts.denoiser is not None
    targets = choose(family.targets(parts.denoiser), ["attention", "mlp"]).targets
    adapter = with_values(put_on_fresh(parts.denoiser, targets, rank=4, alpha=4, seed=seed), seed)
    write_adapter(path, adapter, split=True, layout="kohya", dtype=torch.float32, metadata={})
    return path


def text_lora(tiny_model: Path, path: Path) -> Path:
    """Updates of CLIP's and T5's attention."""
    _, parts = load(tiny_model)
    generator = torch.Generator().manual_seed(4)
    layers = []
    networks: tuple[Network, ...] = ("clip_l", "t5")
    for network, module in zip(networks, parts.modules("text_encoders"), strict=True):
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear) and ("q_proj" in name or name.endswith("SelfAttention.q")):
                down, up = (torch.randn(size, generator=generator) / 3 for size in ((2, 32), (32, 2)))
                prefix = "text_model." if network == "clip_l" and not name.startswith("text_model.") else ""
                layers.append(LoraLayer(part=network, module=prefix + name, down=down, up=up, alpha=2.0))
    assert len(layers) == 2
    write_lora(path, LoraFile(layers=tuple(layers), layout="bfl", format="kohya"), "kohya")
    return path


@torch.no_grad()
def pixels(folder: Path, loras: list[tuple[Path, float]]) -> tuple[Tensor, Tensor]:
    """Latents and image after 20 steps, the LoRAs applied."""
    family, parts = load(folder)
    for path, weight in loras:
        values = read_adapter(path)
        for adapter in [a for name in PARTS for a in put_on_part(parts, name, values)]:
            adapter.set_strength(weight)
    request = filled(Request(prompt="a red cube", seed=2, steps=20, width=48, height=32), parts.info)
    latents = paint(family, parts, request, encode_request(family, parts, request), device=CPU)
    return latents, family.decode_latents(parts, latents)


def test_merged_paints_what_applied_paints(tiny_model: Path, tmp_path: Path) -> None:
    loras = [
        (lora(tiny_model, tmp_path / "a.safetensors", 1), 0.8),
        (lora(tiny_model, tmp_path / "b.safetensors", 2), -0.5),
        (text_lora(tiny_model, tmp_path / "c.safetensors"), 1.0),
    ]
    applied = pixels(tiny_model, loras)
    log = Log()
    merge_into(str(tiny_model), loras, tmp_path / "merged", base=None, precision="fp32", events=log.events)
    merged = pixels(tmp_path / "merged", [])
    bare = pixels(tiny_model, [])
    for found, expected, without in zip(merged, applied, bare, strict=True):
        assert (expected - without).abs().max() > 0.05
        assert (found - expected).abs().max() < 1e-5
    assert "22 layers merged at 0.8" in log.texts  # 14 of attention, 8 of the MLPs
    assert "2 layers merged at 1" in log.texts


def test_merged_and_applied_agree_in_bf16_too(tiny_model: Path, tmp_path: Path) -> None:
    """8-bit pictures as shares of 255: 4e-3 in the mean, 3e-2 at most, after 20 steps."""
    file = lora(tiny_model, tmp_path / "a.safetensors", 1)
    merge_into(
        str(tiny_model), [(file, 0.8)], tmp_path / "m", base=None, precision="bf16", events=Log().events
    )
    pictures = []
    for folder, loras in ((tiny_model, [file]), (tmp_path / "m", [])):
        pipeline = Pipeline.load(str(folder), device="cpu", precision="bf16")
        for path in loras:
            pipeline.add_lora(path, 0.8)
        picture = pipeline("a red cube", seed=2, steps=20, width=48, height=32)[0]
        pictures.append(np.asarray(picture, np.float32) / 255)
    apart = np.abs(pictures[0] - pictures[1])
    assert apart.mean() < 4e-3
    assert apart.max() < 3e-2


def test_a_text_lora_alone_acts_too(tiny_model: Path, tmp_path: Path) -> None:
    file = text_lora(tiny_model, tmp_path / "c.safetensors")
    without, given = pixels(tiny_model, [])[0], pixels(tiny_model, [(file, 1.0)])[0]
    assert (given - without).abs().max() > 1e-3


def test_nothing_is_overwritten(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="exists already"):
        merge_into(str(tiny_model), [], tmp_path, base=None, precision="fp32", events=Log().events)


def test_a_lora_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    layer = LoraLayer(
        part="denoiser",
        module="double_blocks.7.img_attn.proj",
        down=torch.ones(2, 32),
        up=torch.ones(32, 2),
        alpha=2.0,
    )
    write_lora(tmp_path / "x.safetensors", LoraFile(layers=(layer,), layout="bfl", format="kohya"), "kohya")
    with pytest.raises(CheckpointError, match="made for another model family or size"):
        merge_into(
            str(tiny_model),
            [(tmp_path / "x.safetensors", 1.0)],
            tmp_path / "out",
            base=None,
            precision="fp32",
            events=Log().events,
        )
    assert not (tmp_path / "out").exists()


WEIGHTS = {
    "transformer/diffusion_pytorch_model": torch.bfloat16,
    "vae/diffusion_pytorch_model": torch.float32,
    "text_encoder/model": torch.float16,
    "text_encoder_2/model": torch.bfloat16,
}


def tensors(file: Path) -> dict[str, Tensor]:
    with TensorFile(file) as opened:
        return {key: opened.read(key) for key in opened}


def stored_as(tiny_model: Path, folder: Path, narrow: torch.dtype | None = None) -> Path:
    """The tiny FLUX with a dtype per part, some of the denoiser in float32 or as `narrow`."""
    shutil.copytree(tiny_model, folder)
    for name, dtype in WEIGHTS.items():
        file = folder / f"{name}.safetensors"
        values = {key: value.to(dtype) for key, value in tensors(file).items()}
        if name.startswith("transformer"):
            odd = torch.float32 if narrow is None else narrow
            values |= {key: values[key].to(odd) for key in values if key.endswith("attn.to_q.weight")}
        write_safetensors(file, values, {"format": "pt"})
    return folder


@pytest.mark.parametrize("native", [False, True])
def test_a_merge_keeps_the_dtypes_of_the_files(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    """Whether this machine computes in bf16 or not; what no LoRA touches stays bit for bit."""
    monkeypatch.setattr("velatura.placement.device.has_bf16", lambda device: native)
    source = stored_as(tiny_model, tmp_path / "source")
    file = lora(tiny_model, tmp_path / "a.safetensors", 1)
    log = Log()
    merge_into(str(source), [(file, 0.5)], tmp_path / "m", base=None, precision="auto", events=log.events)
    deltas = {path: value.up @ value.down for path, value in read_adapter(file)["denoiser"].items()}
    changed = set()
    for name in WEIGHTS:
        before, after = (tensors(folder / f"{name}.safetensors") for folder in (source, tmp_path / "m"))
        assert before.keys() == after.keys()
        for key, value in after.items():
            assert value.dtype == before[key].dtype, key
            delta = deltas.get(key.removesuffix(".weight")) if name.startswith("transformer") else None
            if delta is None:
                assert torch.equal(value, before[key]), key
            else:
                expected = (before[key].float() + 0.5 * delta).to(value.dtype)
                torch.testing.assert_close(value, expected, atol=0, rtol=2**-7)
                changed.add(value.dtype)
    assert changed == {torch.bfloat16, torch.float32}
    assert "stay in the dtypes of the model's files: bfloat16, float16, float32" in log.texts


def test_weights_in_8_bits_become_bf16(tiny_model: Path, tmp_path: Path) -> None:
    source = stored_as(tiny_model, tmp_path / "source", torch.float8_e4m3fn)
    log = Log()
    merge_into(str(source), [], tmp_path / "m", base=None, precision="auto", events=log.events)
    after = tensors(tmp_path / "m" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in after.values()} == {torch.bfloat16}
    assert "3 weight tensors are in 8 bits in the model's files" in log.texts


def test_sums_that_the_stored_dtype_cannot_hold_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    family, parts = load(tiny_model)
    files = ModelFiles(model=str(tiny_model))
    family.save(parts, files, tmp_path / "half", PARTS, dtype=torch.float16)
    key = "lora_unet_double_blocks_0_img_attn_proj"
    large = {
        f"{key}.lora_down.weight": torch.full((1, 32), 300.0),
        f"{key}.lora_up.weight": torch.full((32, 1), 300.0),
    }
    write_safetensors(tmp_path / "x.safetensors", large)
    with pytest.raises(
        NumericError, match="transformer_blocks.0.attn.to_out.0.weight' has a value as large as 9"
    ):
        merge_into(
            str(tmp_path / "half"),
            [(tmp_path / "x.safetensors", 1.0)],
            tmp_path / "m",
            base=None,
            precision="auto",
            events=Log().events,
        )
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_not_finite_is_refused(tiny_model: Path, tmp_path: Path, strength: float) -> None:
    file = lora(tiny_model, tmp_path / "a.safetensors", 1)
    with pytest.raises(
        RecipeError, match=f"received {strength} as the strength of {file}; allowed: a finite number"
    ):
        merge_into(
            str(tiny_model),
            [(file, strength)],
            tmp_path / "m",
            base=None,
            precision="fp32",
            events=Log().events,
        )
    _, parts = load(tiny_model)
    (adapter,) = put_on_part(parts, "denoiser", read_adapter(file))
    with pytest.raises(RecipeError, match="as the strength of an adapter"):
        adapter.set_strength(strength)
    before = values_of(parts.denoiser)
    with pytest.raises(RecipeError, match="as the strength of an adapter"):
        adapter.merge(strength)
    assert all(torch.equal(value, before[name]) for name, value in values_of(parts.denoiser).items())


def values_of(module: nn.Module | None) -> dict[str, Tensor]:
    assert module is not None
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_lora_beyond_the_dtype_of_the_computation_is_refused(tmp_path: Path) -> None:
    key = "lora_unet_double_blocks_0_img_attn_proj"
    write_safetensors(
        tmp_path / "x.safetensors",
        {f"{key}.lora_down.weight": torch.ones(1, 32), f"{key}.lora_up.weight": torch.full((32, 1), 1e5)},
    )
    assert read_adapter(tmp_path / "x.safetensors", torch.bfloat16)
    with pytest.raises(NumericError, match="attn.to_out.0, up' has a value as large as 100000; fp16 ends"):
        read_adapter(tmp_path / "x.safetensors", torch.float16)


def test_layers_for_an_encoder_that_the_model_lacks_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    _, parts = load(tiny_model)
    parts.text_encoders = parts.text_encoders[:1]  # as SD 1.x, which has CLIP only
    with pytest.raises(CheckpointError, match="1 layer for t5, which this model does not have"):
        put_on_part(
            parts, "text_encoders", read_adapter(text_lora(tiny_model, tmp_path / "text.safetensors"))
        )
