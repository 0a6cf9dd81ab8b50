from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import ModelError
from velatura.families.sd1 import Sd1Family
from velatura.interfaces import PARTS, ModelFiles, Parts

from . import models
from .models import same

CPU = torch.device("cpu")


def load(files: ModelFiles, *parts: Any, **options: Any) -> Parts:
    return Sd1Family().load(files, parts or PARTS, device=CPU, dtype=torch.float32, **options)


def expect_whole(parts: Parts) -> None:
    assert same(parts.denoiser, models.unet())
    assert same(parts.autoencoder, models.vae(flux_like=False))
    assert parts.text_encoders is not None
    assert same(parts.text_encoders[0], models.clip())


def test_folder_and_single_file_give_the_same_tensors(sd1_folder: Path, sd1_single: Path) -> None:
    expect_whole(load(ModelFiles(model=str(sd1_folder))))
    for key in ("model", "denoiser"):  # the file may be given as either
        files = ModelFiles(**{key: sd1_single.name}, tokenizers=str(sd1_folder), base=sd1_single.parent)
        expect_whole(load(files))
        info = Sd1Family().inspect(files)
        assert (info.prediction, info.latent_scale, info.size_step, info.defaults.size) == (
            "noise",
            2,
            2,
            128,
        )


def test_a_part_of_its_own_goes_before_the_file(sd1_single: Path, tmp_path: Path) -> None:
    other = models.vae(flux_like=False, seed=9)
    other.save_pretrained(tmp_path / "vae")
    files = ModelFiles(denoiser=str(sd1_single), autoencoder=str(tmp_path / "vae"))
    parts = load(files, "denoiser", "autoencoder")
    assert same(parts.autoencoder, other)
    assert same(parts.denoiser, models.unet())


def test_parts_of_a_folder_one_by_one(sd1_folder: Path) -> None:
    separate = ModelFiles(
        denoiser=str(sd1_folder / "unet"),
        autoencoder=str(sd1_folder / "vae" / "diffusion_pytorch_model.safetensors"),
        text_encoders=(str(sd1_folder / "text_encoder"),),
        tokenizers=str(sd1_folder / "tokenizer"),
    )
    with pytest.raises(ModelError, match="holds a AutoencoderKL; wanted: the Stable Diffusion UNet"):
        load(ModelFiles(**{**vars(separate), "denoiser": str(sd1_folder / "vae")}))
    expect_whole(load(separate))


def test_the_autoencoder_of_old_folders(sd1_folder: Path, tmp_path: Path) -> None:
    """SD 1.5's own says no scaling factor, and has the attention's old names."""
    shutil.copytree(sd1_folder, tmp_path / "old")
    path = tmp_path / "old" / "vae" / "config.json"
    config = json.loads(path.read_text())
    kept = {k: v for k, v in config.items() if k not in ("scaling_factor", "shift_factor", "force_upcast")}
    path.write_text(json.dumps(kept))
    weights = tmp_path / "old" / "vae" / "diffusion_pytorch_model.safetensors"
    checkpoint = open_checkpoint(weights)
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = {}
    for key in checkpoint:
        renamed = key
        for new, old in names.items():
            renamed = renamed.replace(new, old)
        tensors[renamed] = checkpoint.read(key)
    write_safetensors(weights, tensors)
    parts = load(ModelFiles(model=str(tmp_path / "old")))
    expect_whole(parts)
    assert parts.autoencoder.config.scaling_factor == 0.18215


def test_wrong_files_say_what_they_are(flux_singles: Path, flux_folder: Path, sd1_single: Path) -> None:
    flux = str(flux_singles / "flux.safetensors")
    with pytest.raises(ModelError, match=r"looks like a FLUX denoiser .* an SD 1.x UNet was wanted"):
        load(ModelFiles(model=str(sd1_single), denoiser=flux))
    with pytest.raises(ModelError, match="has no folder 'unet', where the Stable Diffusion UNet"):
        load(ModelFiles(model=str(flux_folder)))
    with pytest.raises(ModelError, match="this looks like a FLUX denoiser"):
        load(ModelFiles(model=flux))
    with pytest.raises(ModelError, match="to a hub id such as 'stable-diffusion-v1-5/stable-diffusion-v1-5'"):
        load(ModelFiles(model=str(sd1_single)))
    with pytest.raises(ModelError, match="offline mode is on"):
        load(ModelFiles(model="velatura-tests/no-such-model"))


def test_other_unets_are_refused(sd1_folder: Path, tmp_path: Path) -> None:
    for folder, changes, message in (
        ("inpainting", {"in_channels": 9}, "takes 9 channels and gives 4: it is one for inpainting"),
        (
            "wide",
            {"cross_attention_dim": 48},
            "CLIP text encoder gives a width of 64 and the denoiser wants 48",
        ),
    ):
        models.unet(**changes).save_pretrained(tmp_path / folder)
        files = ModelFiles(model=str(sd1_folder), denoiser=str(tmp_path / folder))
        with pytest.raises(ModelError, match=message):
            load(files)


def test_saved_from_a_single_file_diffusers_loads_it(
    tmp_path: Path, sd1_folder: Path, sd1_single: Path
) -> None:
    files, family = (
        ModelFiles(denoiser=str(sd1_single), tokenizers=str(sd1_folder)),
        Sd1Family(prediction="v"),
    )
    parts = family.load(files, PARTS, device=CPU, dtype=torch.float32)
    family.save(parts, files, tmp_path / "saved", PARTS, dtype=torch.float32)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert same(pipe.unet, models.unet())
    assert same(pipe.vae, models.vae(flux_like=False))
    assert same(pipe.text_encoder, models.clip())
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    expect_whole(load(ModelFiles(model=str(tmp_path / "saved"))))
    assert Sd1Family().inspect(ModelFiles(model=str(tmp_path / "saved"))).prediction == "v"


def test_from_scratch_and_the_sketch(sd1_folder: Path) -> None:
    files = ModelFiles(model=str(sd1_folder), from_scratch=PARTS)
    first, again, other = (load(files, seed=seed).denoiser for seed in (1, 1, 2))
    assert isinstance(first, nn.Module)
    assert isinstance(other, nn.Module)
    assert same(again, first)
    assert not same(first, other)
    sketch = Sd1Family().sketch(files)
    assert all(parameter.is_meta for parameter in sketch.parameters())
    shapes = {name: parameter.shape for name, parameter in first.named_parameters()}
    assert {name: parameter.shape for name, parameter in sketch.named_parameters()} == shapes
