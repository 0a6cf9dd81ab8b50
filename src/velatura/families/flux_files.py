"""Finding, loading and saving the parts of FLUX models: single files in BFL layout, diffusers folders, hub ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from velatura.checkpoints.flux_keys import flux_config, flux_denoiser
from velatura.checkpoints.loading import load_into, skeleton
from velatura.checkpoints.opening import open_checkpoint
from velatura.families.autoencoder import inspect_autoencoder, load_autoencoder
from velatura.families.flux_forward import use_our_attention
from velatura.families.folder import SavedModule, save_folder
from velatura.families.locate import config_fields, locate, part_path, read_json, weights_identity
from velatura.families.scratch import from_scratch
from velatura.families.text import (
    CLIP_WHAT,
    T5_WHAT,
    check_vocabulary,
    encoder_paths,
    load_clip,
    load_t5,
    load_tokenizers,
    text_fingerprint,
)
from velatura.interfaces import ModelFiles, ModelInfo, PartName, Parts, SamplingDefaults

WHAT = "FLUX denoiser"
VAE_CONFIG = "flux-vae"
TEXT_FOLDERS = ("text_encoder", "text_encoder_2")
TOKENIZER_FOLDERS = ("tokenizer", "tokenizer_2")
DEV = SamplingDefaults(size=1024, steps=28)
SCHNELL = SamplingDefaults(size=1024, steps=4, guidance=0.0)


def inspect_flux(files: ModelFiles) -> ModelInfo:
    """See `Family.inspect`."""
    config = denoiser_config(files)
    guided = bool(config["guidance_embeds"])
    shifted = _shifted(files, guided)
    autoencoder = inspect_autoencoder(files, VAE_CONFIG)
    return ModelInfo(
        family="flux",
        variant="dev" if guided else ("undistilled" if shifted else "schnell"),
        architecture="flux-1-dev" if shifted else "flux-1-schnell",
        latent_channels=int(config["in_channels"]) // 4,
        latent_scale=autoencoder.scale,
        size_step=autoencoder.scale * 2,
        prediction="velocity",
        shifted=shifted,
        defaults=sampling_defaults(files, DEV if shifted else SCHNELL),
        fingerprints={
            "denoiser": _fingerprint(files),
            "autoencoder": autoencoder.fingerprint,
            "text_encoders": text_fingerprint(files, TEXT_FOLDERS),
        },
    )


def load_flux(
    files: ModelFiles,
    info: ModelInfo,
    parts: Sequence[PartName],
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> Parts:
    """See `Family.load`."""
    loaded = Parts(info=info)
    if "text_encoders" in parts:
        loaded.tokenizers = load_tokenizers(files, ("clip", "t5"), TOKENIZER_FOLDERS)
        loaded.text_encoders = _load_text(files, device=device, dtype=dtype, seed=seed)
        for tokenizer, module, what in zip(loaded.tokenizers, loaded.text_encoders, (CLIP_WHAT, T5_WHAT), strict=True):
            check_vocabulary(tokenizer, module, what)
    if "autoencoder" in parts:
        loaded.autoencoder = load_autoencoder(files, VAE_CONFIG, device=device, dtype=dtype, seed=seed)
    if "denoiser" in parts:
        loaded.denoiser = load_denoiser(files, device=device, dtype=dtype, seed=seed)
    return loaded


def load_denoiser(
    files: ModelFiles, *, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> FluxTransformer2DModel:
    """A frozen `FluxTransformer2DModel` in eval mode."""
    config = config_fields(FluxTransformer2DModel, denoiser_config(files))
    if "denoiser" in files.from_scratch:
        module = from_scratch(lambda: _zeroed(FluxTransformer2DModel(**config)), seed, WHAT, device)
    else:
        module = skeleton(lambda: FluxTransformer2DModel(**config))
        checkpoint = open_checkpoint(_path(files))
        inner, key_map = flux_denoiser(checkpoint)
        load_into(module, inner, key_map, dtype=dtype, device=device, what=WHAT)
    use_our_attention([*module.transformer_blocks, *module.single_transformer_blocks])
    return module.requires_grad_(False).eval()


def denoiser_config(files: ModelFiles) -> dict[str, Any]:
    """From a folder's config.json, or read off the shapes in a single file."""
    path = _path(files)
    if path.is_dir():
        return read_json(path / "config.json")
    checkpoint = open_checkpoint(path)
    return dict(flux_config(checkpoint))


def save_flux(parts: Parts, files: ModelFiles, folder: Path, saved: Sequence[PartName], dtype: torch.dtype) -> None:
    """See `Family.save`."""
    modules: dict[str, SavedModule] = {}
    denoiser: Any = parts.denoiser
    autoencoder: Any = parts.autoencoder
    if "denoiser" in saved:
        modules["transformer"] = SavedModule(
            module=denoiser, config=denoiser.config, file="diffusion_pytorch_model"
        )
    if "autoencoder" in saved:
        modules["vae"] = SavedModule(module=autoencoder, config=autoencoder.config, file="diffusion_pytorch_model")
    if "text_encoders" in saved:
        for name, module in zip(TEXT_FOLDERS, parts.modules("text_encoders"), strict=True):
            modules[name] = SavedModule(module=module, config=module.config.to_dict(), file="model")  # type: ignore[union-attr, operator]
    source = locate(files.model, files.base) if files.model is not None else None
    save_folder(folder, modules, source, dtype)


def sampling_defaults(files: ModelFiles, otherwise: SamplingDefaults) -> SamplingDefaults:
    """From the model folder's velatura.json, where there is one."""
    if files.model is None:
        return otherwise
    root = locate(files.model, files.base)
    if not (root / "velatura.json").is_file():
        return otherwise
    return SamplingDefaults(**read_json(root / "velatura.json")["sampling"])


def _load_text(files: ModelFiles, *, device: torch.device, dtype: torch.dtype, seed: int) -> tuple[nn.Module, ...]:
    clip, t5 = encoder_paths(files, TEXT_FOLDERS)
    scratch = "text_encoders" in files.from_scratch
    return (
        load_clip(clip, scratch=scratch, device=device, dtype=dtype, seed=seed),
        load_t5(t5, scratch=scratch, device=device, dtype=dtype, seed=seed),
    )


def _path(files: ModelFiles) -> Path:
    return part_path(files, files.denoiser, "transformer", WHAT)


def _fingerprint(files: ModelFiles) -> str:
    return "" if "denoiser" in files.from_scratch else weights_identity([_path(files)])


def _shifted(files: ModelFiles, guided: bool) -> bool:
    """Whether sampling times follow the image's size: the scheduler's config says it, else guided models do."""
    if files.model is not None:
        path = locate(files.model, files.base) / "scheduler" / "scheduler_config.json"
        if path.is_file():
            return bool(read_json(path).get("use_dynamic_shifting", False))
    return guided


def _zeroed(module: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Start with closed gates and a zero output, as DiT does (adaLN-zero, arXiv:2212.09748)."""
    for name, layer in module.named_modules():
        modulation = name.endswith((".norm1.linear", ".norm1_context.linear", ".norm.linear"))
        if isinstance(layer, nn.Linear) and (modulation or name in ("norm_out.linear", "proj_out")):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return module
