"""Our LoRA files in the hands of diffusers' own loader, and its files in ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import FluxLoraLoaderMixin
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from velatura.checkpoints.lora_file import Written, convert, lora_tensors, read_lora, write_lora
from velatura.checkpoints.lora_layer import LoraFile, LoraLayer

from .conftest import tiny_flux

pytest.importorskip("peft")
Deltas = dict[str, torch.Tensor]


def adapter(
    model: nn.Module, *, rank: int = 2, alpha: float = 3.0, roots: tuple[str, ...] = ("",)
) -> LoraFile:
    """Random updates on every linear layer below `roots`, each with its own down projection."""
    torch.manual_seed(5)
    layers = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith(roots):
            down, up = torch.randn(rank, module.in_features) / 4, torch.randn(module.out_features, rank) / 4
            layers.append(LoraLayer(part="denoiser", module=name, down=down, up=up, alpha=alpha))
    return LoraFile(layers=tuple(layers), layout="diffusers", format="diffusers")


@torch.no_grad()
def applied(model: nn.Module, deltas: Deltas) -> nn.Module:
    """The model with the updates added to its weights."""
    for name, delta in deltas.items():
        model.get_submodule(name).weight += delta  # type: ignore[operator]
    return model


def flux_inputs(model: FluxTransformer2DModel) -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 4, model.config.in_channels),
        "encoder_hidden_states": torch.randn(2, 3, model.config.joint_attention_dim),
        "pooled_projections": torch.randn(2, model.config.pooled_projection_dim),
        "timestep": torch.tensor([0.3, 0.9]),
        "guidance": torch.tensor([3.5, 1.0]),
        "img_ids": torch.zeros(4, 3),
        "txt_ids": torch.zeros(3, 3),
        "return_dict": False,
    }


def pipeline(transformer: FluxTransformer2DModel, text_encoder: CLIPTextModel | None = None) -> FluxPipeline:
    return FluxPipeline(
        transformer=transformer,
        text_encoder=text_encoder,
        scheduler=None,
        vae=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
    )


@torch.no_grad()
@pytest.mark.parametrize("alpha", [2.0, 3.0])
@pytest.mark.parametrize("source", ["split", "fused"])
def test_diffusers_file_acts_like_adding_the_updates(tmp_path: Path, alpha: float, source: str) -> None:
    """`fused` goes through the kohya layout first, so the file holds parts of fused layers."""
    lora = adapter(tiny_flux(), alpha=alpha)
    wanted = {layer.module: layer.delta() for layer in lora.layers}
    if source == "fused":
        write_lora(tmp_path / "kohya.safetensors", lora, "kohya")
        lora = read_lora(tmp_path / "kohya.safetensors")
        assert {layer.module.split(".")[0] for layer in lora.layers} >= {"double_blocks", "single_blocks"}
    write_lora(tmp_path / "x.safetensors", lora, "diffusers")
    pipe = pipeline(tiny_flux())
    inputs = flux_inputs(pipe.transformer)
    plain = pipe.transformer(**inputs)[0]
    pipe.load_lora_weights(tmp_path / "x.safetensors")
    expected = applied(tiny_flux(), wanted)(**inputs)[0]
    torch.testing.assert_close(
        pipe.transformer(**inputs)[0], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )
    assert float((plain - expected).abs().max()) > 0.01 * float(expected.abs().max())


@torch.no_grad()
def test_mixed_ranks_keep_their_scales(tmp_path: Path) -> None:
    lora = adapter(tiny_flux(), roots=("transformer_blocks",), rank=2, alpha=1.0)
    other = adapter(tiny_flux(), roots=("single_transformer_blocks",), rank=5, alpha=20.0)
    both = LoraFile(layers=(*lora.layers, *other.layers), layout="diffusers", format="diffusers")
    write_lora(tmp_path / "x.safetensors", both, "diffusers")
    pipe = pipeline(tiny_flux())
    pipe.load_lora_weights(tmp_path / "x.safetensors")
    inputs = flux_inputs(pipe.transformer)
    expected = applied(tiny_flux(), {layer.module: layer.delta() for layer in both.layers})(**inputs)[0]
    torch.testing.assert_close(
        pipe.transformer(**inputs)[0], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )


def true_width() -> LoraFile:
    """One double and one single block of FLUX at true width: diffusers' kohya converter knows no other."""
    torch.manual_seed(2)
    sizes = {
        "double_blocks.0.img_attn.qkv": (3072, 9216),
        "double_blocks.18.txt_attn.qkv": (3072, 9216),
        "double_blocks.0.img_attn.proj": (3072, 3072),
        "double_blocks.0.txt_mlp.0": (3072, 12288),
        "double_blocks.0.img_mod.lin": (3072, 18432),
        "single_blocks.37.linear1": (3072, 21504),
        "single_blocks.0.linear2": (15360, 3072),
        "single_blocks.0.modulation.lin": (3072, 9216),
    }
    layers = [
        LoraLayer(part="denoiser", module=name, down=torch.randn(2, width), up=torch.randn(out, 2), alpha=0.5)
        for name, (width, out) in sizes.items()
    ]
    return LoraFile(layers=tuple(layers), layout="bfl", format="kohya")


def probed(tensors: dict[str, torch.Tensor]) -> Deltas:
    """Each update of a diffusers file, applied to three fixed inputs."""
    found = {}
    for key, down in tensors.items():
        if key.endswith(".lora_A.weight"):
            name = key.removesuffix(".lora_A.weight")
            probe = torch.randn(down.shape[1], 3, generator=torch.Generator().manual_seed(0))
            found[name.removeprefix("transformer.")] = tensors[f"{name}.lora_B.weight"] @ (down @ probe)
    return found


@pytest.mark.parametrize("to", ["kohya", "comfy"])
def test_diffusers_converter_reads_our_fused_files(tmp_path: Path, to: Written) -> None:
    lora = true_width()
    write_lora(tmp_path / "x.safetensors", lora, to)
    theirs = probed(FluxLoraLoaderMixin.lora_state_dict(load_file(tmp_path / "x.safetensors")))
    ours = probed(lora_tensors(convert(lora, "diffusers"), "diffusers")[0])
    assert len(ours) == 15
    assert sorted(theirs) == sorted(ours)
    for name, outputs in ours.items():
        torch.testing.assert_close(theirs[name], outputs, rtol=1e-4, atol=1e-2)


def test_diffusers_reads_our_split_file_as_it_is(tmp_path: Path) -> None:
    lora = adapter(tiny_flux(), alpha=2.0)
    write_lora(tmp_path / "x.safetensors", lora, "diffusers")
    state = FluxLoraLoaderMixin.lora_state_dict(load_file(tmp_path / "x.safetensors"))
    for layer in lora.layers:
        assert torch.equal(state[f"transformer.{layer.module}.lora_A.weight"], layer.down)
        assert torch.equal(state[f"transformer.{layer.module}.lora_B.weight"], layer.up)


@pytest.mark.parametrize("rslora", [False, True])
def test_we_read_what_diffusers_saves(tmp_path: Path, rslora: bool) -> None:
    from peft import LoraConfig, get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer as PeftLayer

    model = tiny_flux()
    config = LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=["to_q", "proj_out", "ff.net.2"],
        rank_pattern={"single_transformer_blocks.1.attn.to_q": 2},
        alpha_pattern={"transformer_blocks.0.attn.to_q": 7},
        use_rslora=rslora,
        init_lora_weights=False,
    )
    model.add_adapter(config)
    FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(model),
        transformer_lora_adapter_metadata=model.peft_config["default"].to_dict(),
    )
    lora = read_lora(tmp_path / "pytorch_lora_weights.safetensors")
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, PeftLayer)}
    assert {layer.module for layer in lora.layers} == set(adapted)
    for layer in lora.layers:
        torch.testing.assert_close(layer.delta(), adapted[layer.module].get_delta_weight("default"))


def tiny_clip() -> CLIPTextModel:
    torch.manual_seed(3)
    config = CLIPTextConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=60,
        bos_token_id=0,
        eos_token_id=59,
        pad_token_id=1,
    )
    return CLIPTextModel(config).eval()


def clip_adapter(model: CLIPTextModel, layout: Any) -> LoraFile:
    lora = adapter(model, roots=("encoder", "text_model.encoder"), alpha=1.0)
    layers = tuple(
        LoraLayer(
            part="clip_l",
            module=f"text_model.{layer.module.removeprefix('text_model.')}",
            down=layer.down,
            up=layer.up,
            alpha=layer.alpha,
        )
        for layer in lora.layers
    )
    return LoraFile(layers=layers, layout=layout, format="diffusers")


@torch.no_grad()
@pytest.mark.parametrize("family", ["flux", "sd1"])
@pytest.mark.parametrize("to", ["diffusers", "kohya"])
def test_text_encoder_layers_act_in_pipelines(tmp_path: Path, family: str, to: Written) -> None:
    clip = tiny_clip()
    lora = clip_adapter(clip, "unet" if family == "sd1" else "diffusers")
    write_lora(tmp_path / "x.safetensors", lora, to)
    again = read_lora(tmp_path / "x.safetensors")
    assert again.of("clip_l").keys() == lora.of("clip_l").keys()
    pipe: Any
    if family == "flux":
        pipe = pipeline(tiny_flux(), clip)
    else:
        parts = dict.fromkeys(("vae", "tokenizer", "scheduler", "safety_checker", "feature_extractor"))
        pipe = StableDiffusionPipeline(
            text_encoder=clip, unet=tiny_unet(), requires_safety_checker=False, **parts
        )
    ids = torch.tensor([[0, 5, 9, 59]])
    wanted = {layer.module: layer.delta() for layer in lora.layers}
    if not hasattr(clip, "text_model"):
        wanted = {name.removeprefix("text_model."): delta for name, delta in wanted.items()}
    expected = applied(tiny_clip(), wanted)(ids)[0]
    pipe.load_lora_weights(tmp_path / "x.safetensors")
    torch.testing.assert_close(pipe.text_encoder(ids)[0], expected, rtol=1e-4, atol=1e-4)


def tiny_unet() -> UNet2DConditionModel:
    torch.manual_seed(4)
    return UNet2DConditionModel(
        block_out_channels=[8, 16],
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


@torch.no_grad()
@pytest.mark.parametrize("to", ["diffusers", "kohya"])
def test_unet_layers_act_in_a_pipeline(tmp_path: Path, to: Written) -> None:
    unet = tiny_unet()
    layers = []
    for name, module in unet.named_modules():
        if ".attentions." in name and isinstance(module, nn.Linear | nn.Conv2d):
            shape = (1, 1) if isinstance(module, nn.Conv2d) else ()
            out, width = module.weight.shape[:2]
            down, up = torch.randn(2, width, *shape) / 4, torch.randn(out, 2, *shape) / 4
            layers.append(LoraLayer(part="denoiser", module=name, down=down, up=up, alpha=1.0))
    lora = LoraFile(layers=tuple(layers), layout="unet", format="diffusers")
    write_lora(tmp_path / "x.safetensors", lora, to)
    parts = dict.fromkeys(
        ("vae", "text_encoder", "tokenizer", "scheduler", "safety_checker", "feature_extractor")
    )
    pipe = StableDiffusionPipeline(unet=unet, requires_safety_checker=False, **parts)
    inputs = {
        "sample": torch.randn(1, 4, 8, 8),
        "timestep": 10,
        "encoder_hidden_states": torch.randn(1, 3, 32),
    }
    expected = applied(tiny_unet(), {layer.module: layer.delta() for layer in layers})(**inputs).sample
    pipe.load_lora_weights(tmp_path / "x.safetensors")
    torch.testing.assert_close(pipe.unet(**inputs).sample, expected, rtol=1e-3, atol=1e-3)


def test_old_diffusers_alpha_keys(tmp_path: Path) -> None:
    """`transformer.X.alpha` beside `lora_A`, as some FLUX files have it: diffusers and we agree."""
    lora = adapter(tiny_flux(), rank=2)
    tensors = {}
    for layer in lora.layers:
        tensors[f"transformer.{layer.module}.lora_A.weight"] = layer.down
        tensors[f"transformer.{layer.module}.lora_B.weight"] = layer.up
        tensors[f"transformer.{layer.module}.alpha"] = torch.tensor(5.0)
    save_file(tensors, tmp_path / "x.safetensors")
    assert {layer.alpha for layer in read_lora(tmp_path / "x.safetensors").layers} == {5.0}
    pipe = pipeline(tiny_flux())
    pipe.load_lora_weights(tmp_path / "x.safetensors")
    module = pipe.transformer.get_submodule("transformer_blocks.0.attn.to_q")
    assert list(module.scaling.values()) == [2.5]
    assert json.dumps(list(module.r.values())) == "[2]"
