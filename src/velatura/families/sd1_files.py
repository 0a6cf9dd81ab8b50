"""Finding, loading and saving the parts of Stable Diffusion 1.x: LDM single files, diffusers folders, hub ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from velatura.checkpoints.loading import load_into, skeleton
from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.published import load_config
from velatura.checkpoints.sd1_keys import sd1_unet, sd1_unet_config
from velatura.errors import ModelError
from velatura.families.autoencoder import inspect_autoencoder, load_autoencoder
from velatura.families.configs import (
    DEFAULTS,
    SCHEDULER,
    check_fit,
    config_fields,
    own_defaults,
    part_config,
    sampling_defaults,
    scheduler_config,
)
from velatura.families.folder import (
    SavedModel,
    SavedModule,
    from_diffusers,
    from_transformers,
    pipeline_index,
    save_folder,
)
from velatura.families.locate import part_path, weights_identity
from velatura.families.noise_schedule import PREDICTIONS, prediction_of
from velatura.families.parts import open_part
from velatura.families.scratch import from_scratch
from velatura.families.text import (
    CLIP_PREFIX,
    CLIP_WHAT,
    clip_width,
    encoder_paths,
    load_clip,
    text_fingerprint,
)
from velatura.families.tokenizers import (
    TokenizerPlace,
    check_vocabulary,
    given_folders,
    load_tokenizers,
    tokenizers_fingerprint,
)
from velatura.families.unet import with_zeroed_outputs
from velatura.interfaces import ModelFiles, ModelInfo, PartName, Parts, Prediction, SamplingDefaults

WHAT = "Stable Diffusion UNet"
VAE_CONFIG = "sd15-vae"
TEXT_FOLDERS = ("text_encoder",)
TOKENIZERS = (TokenizerPlace(kind="clip", subfolder="tokenizer"),)
HUB_EXAMPLE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
INDEX = {
    "feature_extractor": None,
    "safety_checker": None,
    "scheduler": ("diffusers", "PNDMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


def inspect_sd1(files: ModelFiles, prediction: Prediction | None) -> ModelInfo:
    """See `Family.inspect`; `prediction`: None takes the scheduler's word."""
    files = whole(files)
    config = denoiser_config(files)
    autoencoder = inspect_autoencoder(files, VAE_CONFIG)
    _check_parts(config, autoencoder.channels, files)
    predicts = prediction or prediction_of(schedule_config(files))
    size = int(config["sample_size"] or 64) * autoencoder.scale
    scratch = "denoiser" in files.from_scratch
    return ModelInfo(
        family="sd1",
        variant="1.x" if predicts == "noise" else f"1.x-{predicts}",
        architecture="stable-diffusion-v1",
        latent_channels=autoencoder.channels,
        latent_scale=autoencoder.scale,
        size_step=autoencoder.scale,
        prediction=predicts,
        shifted=False,
        defaults=sampling_defaults(files, SamplingDefaults(size=size, steps=25, guidance=0.0, cfg=7.5)),
        fingerprints={
            "denoiser": "" if scratch else weights_identity([_path(files)]),
            "autoencoder": autoencoder.fingerprint,
            "text_encoders": text_fingerprint(files, TEXT_FOLDERS),
            "tokenizers": tokenizers_fingerprint(files, TOKENIZERS),
        },
    )


def load_sd1(
    files: ModelFiles,
    info: ModelInfo,
    parts: Sequence[PartName],
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> Parts:
    """See `Family.load`."""
    files = whole(files)
    loaded = Parts(info=info)
    if "text_encoders" in parts:
        loaded.tokenizers = load_tokenizers(files, TOKENIZERS, HUB_EXAMPLE)
        (path,) = encoder_paths(files, TEXT_FOLDERS)
        scratch = "text_encoders" in files.from_scratch
        encoder = load_clip(path, scratch=scratch, device=device, dtype=dtype, seed=seed)
        check_vocabulary(loaded.tokenizers[0], encoder, CLIP_WHAT)
        loaded.text_encoders = (encoder,)
    if "autoencoder" in parts:
        loaded.autoencoder = load_autoencoder(files, VAE_CONFIG, device=device, dtype=dtype, seed=seed)
    if "denoiser" in parts:
        loaded.denoiser = load_denoiser(files, device=device, dtype=dtype, seed=seed)
    return loaded


def load_denoiser(
    files: ModelFiles, *, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> UNet2DConditionModel:
    """A frozen `UNet2DConditionModel` in eval mode."""
    if "denoiser" in files.from_scratch:
        config = config_fields(UNet2DConditionModel, denoiser_config(files))
        return from_scratch(lambda: with_zeroed_outputs(UNet2DConditionModel(**config)), seed, WHAT, device)
    module: Any = sketch_denoiser(files)
    inner, key_map = sd1_unet(open_part(_path(files), "sd1-unet"))
    load_into(module, inner, key_map, dtype=dtype, device=device, what=WHAT)
    return module.requires_grad_(False).eval()


def sketch_denoiser(files: ModelFiles) -> nn.Module:
    """The denoiser's modules with parameters on the meta device, a `UNet2DConditionModel`."""
    config = config_fields(UNet2DConditionModel, denoiser_config(files))
    module: nn.Module = skeleton(lambda: UNet2DConditionModel(**config))
    return module


def save_sd1(
    parts: Parts, files: ModelFiles, folder: Path, saved: Sequence[PartName], dtype: torch.dtype
) -> None:
    """See `Family.save`."""
    files = whole(files)
    modules: dict[str, SavedModule] = {}
    if "denoiser" in saved:
        modules["unet"] = from_diffusers(parts.denoiser)
    if "autoencoder" in saved:
        modules["vae"] = from_diffusers(parts.autoencoder)
    if "text_encoders" in saved:
        modules["text_encoder"] = from_transformers(parts.modules("text_encoders")[0], CLIP_PREFIX)
    said = next(name for name, kind in PREDICTIONS.items() if kind == parts.info.prediction)
    scheduler = {"_class_name": "PNDMScheduler", **schedule_config(files), "prediction_type": said}
    index = {**INDEX, "scheduler": ("diffusers", str(scheduler["_class_name"]))}
    documents: dict[str, Mapping[str, Any]] = {
        "model_index.json": pipeline_index("StableDiffusionPipeline", index),
        SCHEDULER: scheduler,
    }
    if (defaults := own_defaults(files)) is not None:
        documents[DEFAULTS] = defaults
    tokenizers = given_folders(files, TOKENIZERS)
    save_folder(folder, SavedModel(modules=modules, documents=documents, folders=tokenizers), dtype)


def whole(files: ModelFiles) -> ModelFiles:
    """An LDM file given as denoiser holds the other parts too: those that are not given come from it."""
    if files.model is not None or files.denoiser is None or not (files.base / files.denoiser).is_file():
        return files
    checkpoint = open_checkpoint(files.base / files.denoiser)
    others = ("first_stage_model.", "cond_stage_model.")
    if any(key.startswith(others) for key in checkpoint):
        return replace(files, model=files.denoiser)
    return files


def denoiser_config(files: ModelFiles) -> dict[str, Any]:
    """From a folder's config.json, or read off the shapes in a single file."""
    path = _path(files)
    if path.is_dir():
        return part_config(UNet2DConditionModel, path, WHAT)
    return {**load_config("sd15-unet"), **sd1_unet_config(open_part(path, "sd1-unet"))}


def schedule_config(files: ModelFiles) -> dict[str, Any]:
    """The scheduler's config of the model's folder; that of SD 1.5 for single files."""
    return scheduler_config(files) or load_config("sd15-scheduler")


def _check_parts(config: dict[str, Any], channels: int, files: ModelFiles) -> None:
    """Refuse parts of different models, and denoisers that want more than noisy latents."""
    wanted = int(config["in_channels"])
    if wanted != int(config["out_channels"]):
        raise ModelError(
            f"this UNet takes {wanted} channels and gives {config['out_channels']}: it is one for inpainting or "
            "edits, which is not supported. Give a plain Stable Diffusion 1.x model."
        )
    check_fit("autoencoder", "latent channels", channels, wanted)
    (clip,) = encoder_paths(files, TEXT_FOLDERS)
    check_fit(CLIP_WHAT, "a width of", clip_width(clip), int(config["cross_attention_dim"]))


def _path(files: ModelFiles) -> Path:
    return part_path(files, files.denoiser, "unet", WHAT)
