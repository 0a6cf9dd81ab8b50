from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from velatura.checkpoints.checkpoint import TensorDict
from velatura.checkpoints.loading import load_into, skeleton
from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.published import load_config
from velatura.checkpoints.vae_keys import autoencoder, vae_config, vae_key_map
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import ModelError

from .conftest import md5_of_names_and_shapes, shapes_of, tiny_vae


def ldm_file(model: AutoencoderKL, levels: int, layers: int) -> dict[str, torch.Tensor]:
    pending = vae_key_map(levels=levels, layers=layers).to_file(model.state_dict())
    return {key: item.make() for key, item in pending.items()}


@pytest.mark.parametrize(("levels", "layers"), [(1, 1), (2, 2), (4, 2), (5, 1)])
@pytest.mark.parametrize("quant", [True, False])
def test_round_trip_and_diffusers_converter(tmp_path: Path, levels: int, layers: int, quant: bool) -> None:
    model = tiny_vae(levels=levels, layers=layers, quant=quant)
    file = ldm_file(model, levels, layers)
    state = model.state_dict()

    theirs = convert_ldm_vae_checkpoint(dict(file), dict(model.config))
    assert sorted(theirs) == sorted(state)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in state.items())

    write_safetensors(tmp_path / "x.safetensors", {f"first_stage_model.{key}": t for key, t in file.items()})
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    config = vae_config(checkpoint, norm_num_groups=4)
    assert config == vae_config(TensorDict(state), norm_num_groups=4)
    assert all(model.config[key] == value for key, value in config.items())
    again = skeleton(lambda: AutoencoderKL(**config))
    inner, key_map = autoencoder(checkpoint)
    load_into(again, inner, key_map, dtype=None, what="autoencoder")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in state.items())


def test_true_flux_autoencoder() -> None:
    with torch.device("meta"):
        model = AutoencoderKL(**load_config("flux-vae"))
    assert sum(p.numel() for p in model.parameters()) == 83_819_683
    file = vae_key_map(levels=4, layers=2).to_file(model.state_dict())
    shapes = {key: item.shape for key, item in file.items()}
    assert len(shapes) == 244
    assert md5_of_names_and_shapes(shapes).startswith("21ea55f4")  # of the published ae.safetensors
    assert shapes["encoder.down.1.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert shapes["encoder.down.2.downsample.conv.weight"] == (512, 512, 3, 3)
    assert shapes["encoder.mid.attn_1.proj_out.weight"] == (512, 512, 1, 1)
    assert shapes["encoder.conv_out.weight"] == (32, 512, 3, 3)
    assert shapes["decoder.conv_in.weight"] == (512, 16, 3, 3)
    assert shapes["decoder.up.3.block.2.conv1.weight"] == (512, 512, 3, 3)
    assert shapes["decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert shapes["decoder.up.1.upsample.conv.weight"] == (256, 256, 3, 3)
    assert "decoder.up.0.upsample.conv.weight" not in shapes
    assert "encoder.down.3.downsample.conv.weight" not in shapes
    config = vae_config(TensorDict({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}))
    assert all(load_config("flux-vae")[key] == value for key, value in config.items())


def test_old_diffusers_attention_names() -> None:
    model = tiny_vae()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    values = {}
    for name, tensor in model.state_dict().items():
        for new, before in old.items():
            name = name.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{before}.")
        values[name] = tensor
    inner, key_map = autoencoder(TensorDict(values))
    again = skeleton(lambda: tiny_vae(seed=3))
    load_into(again, inner, key_map, dtype=None, what="autoencoder")
    assert shapes_of(again) == shapes_of(model)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_refusals() -> None:
    with pytest.raises(ModelError, match="no image autoencoder in it"):
        autoencoder(TensorDict({"a": torch.zeros(1)}))
    with pytest.raises(ModelError, match="not multiples of 32 norm groups; put its config"):
        vae_config(TensorDict(tiny_vae().state_dict()))
