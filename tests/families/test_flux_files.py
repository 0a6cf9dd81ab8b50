from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline

from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import ModelError
from velatura.families.flux import FluxFamily
from velatura.interfaces import PARTS, ModelFiles, Parts

from . import models
from .models import same

CPU = torch.device("cpu")


def singles(folder: Path, **changes: Any) -> ModelFiles:
    """The recipe's [model] for single files; relative paths start at the folder."""
    given = {
        "denoiser": "flux.safetensors",
        "autoencoder": "ae.safetensors",
        "text_encoders": ("t5xxl.safetensors", "clip_l.safetensors"),  # told apart by their keys
        "tokenizers": ".",
        "base": folder,
    }
    return ModelFiles(**{**given, **changes})


def load(files: ModelFiles, *parts: Any, **options: Any) -> Parts:
    return FluxFamily().load(files, parts or PARTS, device=CPU, dtype=torch.float32, **options)


def expect_whole(parts: Parts) -> None:
    assert same(parts.denoiser, models.flux(guidance=True))
    assert same(parts.autoencoder, models.vae(flux_like=True))
    clip, t5 = parts.text_encoders or ()
    assert same(clip, models.clip())
    assert same(t5, models.t5())
    for name in PARTS:
        for module in parts.modules(name):
            assert not module.training
            assert not any(p.requires_grad for p in module.parameters())


def test_folder_and_single_files_give_the_same_tensors(flux_folder: Path, flux_singles: Path) -> None:
    folder, single = ModelFiles(model=str(flux_folder)), singles(flux_singles)
    expect_whole(load(folder))
    expect_whole(load(single))
    a, b = FluxFamily().inspect(folder), FluxFamily().inspect(single)
    assert (a.variant, a.shifted, a.latent_channels, a.latent_scale, a.size_step) == ("dev", True, 4, 2, 4)
    assert (b.variant, b.shifted, b.latent_channels, b.latent_scale, b.size_step) == ("dev", True, 4, 2, 4)
    assert a.fingerprints["tokenizers"]


def test_parts_of_different_sources_mix(flux_folder: Path, flux_singles: Path) -> None:
    whole, file = str(flux_folder), str(flux_singles / "flux.safetensors")
    expect_whole(load(ModelFiles(model=whole, denoiser=file)))
    part = str(flux_folder / "transformer")
    expect_whole(load(singles(flux_singles, denoiser=part, text_encoders=(whole,), autoencoder=whole)))
    encoders = (str(flux_folder / "text_encoder_2"), str(flux_folder / "text_encoder"))
    expect_whole(load(singles(flux_singles, text_encoders=encoders)))


def test_one_file_with_everything(tmp_path: Path, flux_singles: Path) -> None:
    prefixes = {
        "flux": "model.diffusion_model.",
        "ae": "vae.",
        "clip_l": "text_encoders.clip_l.transformer.",
        "t5xxl": "text_encoders.t5xxl.transformer.",
    }
    tensors = {}
    for name, prefix in prefixes.items():
        file = open_checkpoint(flux_singles / f"{name}.safetensors")
        tensors |= {prefix + key: file.read(key) for key in file}
    write_safetensors(tmp_path / "all.safetensors", tensors)
    for key in ("model", "denoiser"):  # it may be given as either
        files = ModelFiles(**{key: "all.safetensors"}, tokenizers=str(flux_singles), base=tmp_path)
        expect_whole(load(files))
    files = singles(flux_singles, text_encoders=(str(tmp_path / "all.safetensors"),))
    expect_whole(load(files))


def test_each_part_alone_and_what_was_not_asked_for_stays_away(flux_singles: Path) -> None:
    parts = load(singles(flux_singles), "autoencoder")
    assert (parts.denoiser, parts.text_encoders, parts.tokenizers) == (None, None, None)
    assert parts.autoencoder is not None
    assert load(singles(flux_singles, tokenizers=None), "denoiser").denoiser is not None


def test_half_precision_and_shards(tmp_path: Path, flux_folder: Path) -> None:
    models.flux(guidance=True).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 1
    files = ModelFiles(model=str(flux_folder), denoiser=str(tmp_path))
    found = FluxFamily().load(files, ["denoiser"], device=CPU, dtype=torch.bfloat16).denoiser
    assert same(found, models.flux(guidance=True).to(torch.bfloat16))


def test_schnell_is_told_from_the_file(tmp_path: Path, flux_folder: Path) -> None:
    models.flux(guidance=False).save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    files = ModelFiles(
        denoiser=str(file),
        autoencoder=str(flux_folder),
        text_encoders=(str(flux_folder),),
        tokenizers=str(flux_folder),
    )
    info = FluxFamily().inspect(files)
    assert (info.variant, info.shifted, info.defaults.steps) == ("schnell", False, 4)
    assert info.architecture == "flux-1-schnell"


@pytest.mark.parametrize(
    ("changes", "looks", "wanted"),
    [
        ({"denoiser": "ae.safetensors"}, "an image autoencoder", "a FLUX denoiser was wanted"),
        ({"autoencoder": "flux.safetensors"}, "a FLUX denoiser", "an image autoencoder was wanted"),
        (
            {"text_encoders": ("clip_l.safetensors", "ae.safetensors")},
            "an image autoencoder",
            "a T5 encoder was wanted",
        ),
        (
            {"text_encoders": ("clip_l.safetensors", "clip_l.safetensors")},
            "a CLIP text encoder",
            "a T5 encoder was wanted",
        ),
    ],
)
def test_a_wrong_file_says_what_it_is(
    flux_singles: Path, changes: dict[str, Any], looks: str, wanted: str
) -> None:
    with pytest.raises(ModelError) as caught:
        load(singles(flux_singles, **changes))
    assert looks in str(caught.value)
    assert wanted in str(caught.value)


def test_another_family_is_refused(flux_singles: Path, sd1_single: Path, sd1_folder: Path) -> None:
    with pytest.raises(ModelError, match="looks like an SD 1.x UNet with .* a FLUX denoiser was wanted"):
        load(singles(flux_singles, denoiser=str(sd1_single)))
    with pytest.raises(ModelError, match="has no folder 'transformer'"):
        load(ModelFiles(model=str(sd1_folder)))
    with pytest.raises(ModelError, match="holds a UNet2DConditionModel; wanted: the FLUX denoiser"):
        load(singles(flux_singles, denoiser=str(sd1_folder / "unet")))
    encoders = (str(sd1_folder / "text_encoder"), str(sd1_folder / "text_encoder"))
    with pytest.raises(ModelError, match="holds a model of type clip_text_model; wanted: the T5"):
        load(singles(flux_singles, text_encoders=encoders))


def test_parts_of_other_sizes_are_refused(tmp_path: Path, flux_singles: Path) -> None:
    config = json.loads((models.POCKET_FLUX / "text_encoder" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": 48}))
    wide = (str(tmp_path), str(flux_singles / "t5xxl.safetensors"))
    with pytest.raises(ModelError, match="CLIP text encoder gives a width of 48 and the denoiser wants 64"):
        load(singles(flux_singles, text_encoders=wide))
    shutil.copytree(models.POCKET_FLUX / "vae", tmp_path / "vae")
    with pytest.raises(ModelError, match="latent channels 16 and the denoiser wants 4"):
        load(singles(flux_singles, autoencoder=str(tmp_path / "vae")))


def test_missing_tokenizers(flux_singles: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match="Set model.tokenizers to a folder .* 'black-forest-labs/FLUX.1-dev'"
    ):
        load(singles(flux_singles, tokenizers=None))
    with pytest.raises(ModelError, match="holds no clip tokenizer: wanted tokenizer.json, or vocab.json"):
        load(singles(flux_singles, tokenizers=str(tmp_path)))


def test_nothing_given(flux_singles: Path) -> None:
    with pytest.raises(ModelError, match="the FLUX denoiser is not given: set model.model"):
        load(ModelFiles())
    with pytest.raises(ModelError, match="no such file or folder"):
        load(singles(flux_singles, denoiser="flux1-dev.safetensors"))
    with pytest.raises(ModelError, match="wants 2 files or folders, received 1"):
        load(singles(flux_singles, text_encoders=("clip_l.safetensors",)))


def test_saved_from_single_files_diffusers_loads_it(tmp_path: Path, flux_singles: Path) -> None:
    files, family = singles(flux_singles), FluxFamily()
    parts = load(files)
    family.save(parts, files, tmp_path / "saved", PARTS, dtype=torch.float32)
    expect_whole(load(ModelFiles(model=str(tmp_path / "saved"))))
    names = open_checkpoint(tmp_path / "saved" / "text_encoder").keys()
    assert all(name.startswith("text_model.") for name in names)  # as in every published CLIP
    pipe = FluxPipeline.from_pretrained(tmp_path / "saved")
    assert same(pipe.transformer, models.flux(guidance=True))
    assert same(pipe.vae, models.vae(flux_like=True))
    assert same(pipe.text_encoder, models.clip())
    assert same(pipe.text_encoder_2, models.t5())
    assert pipe.scheduler.config.use_dynamic_shifting
    assert pipe.vae.config.shift_factor == 0.1159
    assert len(pipe.tokenizer) == models.CLIP_PIECES
    family.save(parts, files, tmp_path / "saved", ["denoiser"], dtype=torch.bfloat16)  # replaces the folder
    assert not (tmp_path / "saved" / "vae").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_from_scratch_is_a_function_of_the_seed(flux_folder: Path) -> None:
    files = ModelFiles(model=str(flux_folder), from_scratch=PARTS)
    torch.manual_seed(0)
    first, again, other = (load(files, seed=seed) for seed in (1, 1, 2))
    assert same(first.denoiser, again.denoiser)
    assert not same(first.denoiser, other.denoiser)
    assert not first.denoiser.proj_out.weight.any()
    assert first.info.fingerprints["denoiser"] == other.info.fingerprints["denoiser"] != ""
