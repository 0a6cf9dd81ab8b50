from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel

from velatura.checkpoints.checkpoint import TensorDict
from velatura.checkpoints.loading import load_into, skeleton
from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.published import load_config
from velatura.checkpoints.sd1_keys import UNetShape, sd1_unet, sd1_unet_config, sd1_unet_key_map
from velatura.checkpoints.text_keys import CLIP_IGNORED, clip_text_encoder
from velatura.checkpoints.vae_keys import autoencoder, vae_key_map
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import ModelError

from .conftest import shapes_of, tiny_vae


def unet_config(attention: tuple[bool, ...], layers: int, **changes: Any) -> dict[str, Any]:
    kinds = ["CrossAttn" if here else "" for here in attention]
    return {
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": [8 * (i + 1) for i in range(len(attention))],
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "layers_per_block": layers,
        "cross_attention_dim": 10,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
        **changes,
    }


def unet(config: dict[str, Any]) -> UNet2DConditionModel:
    torch.manual_seed(0)
    model = UNet2DConditionModel(**config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize(
    ("attention", "layers", "linear"),
    [
        ((True, True, False), 2, False),
        ((True, False), 1, True),
        ((False, True), 3, False),
        ((True,), 1, False),
    ],
)
def test_unet_round_trip_and_diffusers_converter(
    tmp_path: Path, attention: tuple[bool, ...], layers: int, linear: bool
) -> None:
    config = unet_config(attention, layers, use_linear_projection=linear)
    model = unet(config)
    key_map = sd1_unet_key_map(UNetShape(attention=attention, layers=layers))
    file = {key: item.make() for key, item in key_map.to_file(model.state_dict()).items()}
    state = model.state_dict()
    if len(attention) > 1:
        merged = {f"model.diffusion_model.{key}": tensor for key, tensor in file.items()}
        theirs = convert_ldm_unet_checkpoint(merged, dict(model.config))
        assert sorted(theirs) == sorted(state)
        assert all(torch.equal(theirs[name], tensor) for name, tensor in state.items())

    write_safetensors(
        tmp_path / "x.safetensors", {f"model.diffusion_model.{key}": t for key, t in file.items()}
    )
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert sd1_unet_config(checkpoint, norm_num_groups=4) == config
    assert sd1_unet_config(TensorDict(state), norm_num_groups=4) == config
    again = skeleton(lambda: UNet2DConditionModel(**config))
    inner, found = sd1_unet(checkpoint)
    load_into(again, inner, found, dtype=None, what="SD UNet")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in state.items())


def test_true_sd15_unet() -> None:
    with torch.device("meta"):
        model = UNet2DConditionModel(**load_config("sd15-unet"))
    assert sum(p.numel() for p in model.parameters()) == 859_520_964
    key_map = sd1_unet_key_map(UNetShape(attention=(True, True, True, False), layers=2))
    shapes = {key: item.shape for key, item in key_map.to_file(model.state_dict()).items()}
    assert len(shapes) == 686
    assert shapes["input_blocks.0.0.weight"] == (320, 4, 3, 3)
    assert shapes["input_blocks.3.0.op.weight"] == (320, 320, 3, 3)
    assert shapes["input_blocks.4.0.skip_connection.weight"] == (640, 320, 1, 1)
    assert shapes["input_blocks.8.1.proj_in.weight"] == (1280, 1280, 1, 1)
    assert shapes["input_blocks.11.0.in_layers.2.weight"] == (1280, 1280, 3, 3)
    assert shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"] == (1280, 768)
    assert shapes["output_blocks.2.1.conv.weight"] == (1280, 1280, 3, 3)
    assert shapes["output_blocks.5.2.conv.weight"] == (1280, 1280, 3, 3)
    assert shapes["output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight"] == (2560, 320)
    assert shapes["out.2.weight"] == (4, 320, 3, 3)
    read = sd1_unet_config(
        TensorDict({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    )
    published = load_config("sd15-unet") | {"use_linear_projection": False}
    assert all(published[key] == value for key, value in read.items())


def test_true_sd15_autoencoder() -> None:
    with torch.device("meta"):
        model = AutoencoderKL(**load_config("sd15-vae"))
    assert sum(p.numel() for p in model.parameters()) == 83_653_863


def test_all_parts_from_one_file(tmp_path: Path) -> None:
    config = unet_config((True, False), 1)
    models = (
        unet(config),
        tiny_vae(levels=2),
        CLIPTextModel(
            CLIPTextConfig(
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=1,
                vocab_size=60_000,
            )
        ),
    )
    unet_map = sd1_unet_key_map(UNetShape(attention=(True, False), layers=1))
    parts = {
        "model.diffusion_model.": unet_map.to_file(models[0].state_dict()),
        "first_stage_model.": vae_key_map(levels=2, layers=1).to_file(models[1].state_dict()),
        "cond_stage_model.transformer.text_model.": models[2].state_dict()
        | {"embeddings.position_ids": torch.arange(77)[None]},
    }
    tensors = {prefix + key: item for prefix, part in parts.items() for key, item in part.items()}
    write_safetensors(tmp_path / "x.safetensors", tensors | {"alphas_cumprod": torch.zeros(4)})

    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    again = tuple(skeleton(lambda model=model: type(model)(**kwargs(model))) for model in models)
    inner, key_map = sd1_unet(checkpoint)
    load_into(again[0], inner, key_map, dtype=None, what="UNet")
    inner, key_map = autoencoder(checkpoint)
    load_into(again[1], inner, key_map, dtype=None, what="autoencoder")
    inner, key_map = clip_text_encoder(checkpoint, shapes_of(again[2]))
    load_into(again[2], inner, key_map, dtype=None, what="text encoder", ignore=CLIP_IGNORED)
    for before, after in zip(models, again, strict=True):
        assert all(torch.equal(after.state_dict()[name], t) for name, t in before.state_dict().items())


def kwargs(model: Any) -> dict[str, Any]:
    if isinstance(model, CLIPTextModel):
        return {"config": model.config}
    return {key: value for key, value in model.config.items() if not key.startswith("_")}


def test_refusals() -> None:
    with pytest.raises(ModelError, match="no Stable Diffusion UNet in it"):
        sd1_unet(TensorDict({"a": torch.zeros(1)}))
    broken = {"input_blocks.0.0.weight": torch.zeros(1), "input_blocks.2.0.op.weight": torch.zeros(1)}
    with pytest.raises(ModelError, match="3 input blocks do not divide into 2 equal levels"):
        sd1_unet(TensorDict(broken))
