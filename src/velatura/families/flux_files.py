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
from velatura.families.flux_forward import use_our_attention
from velatura.families.folder import (
    SavedModel,
    SavedModule,
    from_diffusers,
    from_transformers,
    pipeline_index,
    save_folder,
)
from velatura.families.locate import part_path, weights_identity
from velatura.families.parts import open_part
from velatura.families.scratch import from_scratch
from velatura.families.text import (
    CLIP_PREFIX,
    CLIP_WHAT,
    T5_WHAT,
    clip_width,
    encoder_paths,
    load_clip,
    load_t5,
    t5_width,
    text_fingerprint,
)
from velatura.families.tokenizers import (
    TokenizerPlace,
    check_vocabulary,
    given_folders,
    load_tokenizers,
    tokenizers_fingerprint,
)
from velatura.interfaces import ModelFiles, ModelInfo, PartName, Parts, SamplingDefaults

WHAT = "FLUX denoiser"
VAE_CONFIG = "flux-vae"
TEXT_FOLDERS = ("text_encoder", "text_encoder_2")
TOKENIZERS = (
    TokenizerPlace(kind="clip", subfolder="tokenizer"),
    TokenizerPlace(kind="t5", subfolder="tokenizer_2"),
)
HUB_EXAMPLE = "black-forest-labs/FLUX.1-dev"
INDEX = {
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "T5EncoderModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "T5TokenizerFast"),
    "transformer": ("diffusers", "FluxTransformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}
DEV = SamplingDefaults(size=1024, steps=28)
SCHNELL = SamplingDefaults(size=1024, steps=4, guidance=0.0)


def inspect_flux(files: ModelFiles) -> ModelInfo:
    """See `Family.inspect`."""
    config = denoiser_config(files)
    guided = bool(config["guidance_embeds"])
    shifted = _shifted(files, guided)
    autoencoder = inspect_autoencoder(files, VAE_CONFIG)
    _check_parts(config, autoencoder.channels, files)
    return ModelInfo(
        family="flux",
        variant="dev" if guided else ("undistilled" if shifted else "schnell"),
        architecture="flux-1-dev" if shifted else "flux-1-schnell",
        latent_channels=autoencoder.channels,
        latent_scale=autoencoder.scale,
        size_step=autoencoder.scale * 2,
        prediction="velocity",
        shifted=shifted,
        defaults=sampling_defaults(files, DEV if shifted else SCHNELL),
        fingerprints={
            "denoiser": _fingerprint(files),
            "autoencoder": autoencoder.fingerprint,
            "text_encoders": text_fingerprint(files, TEXT_FOLDERS),
            "tokenizers": tokenizers_fingerprint(files, TOKENIZERS),
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
        loaded.tokenizers = load_tokenizers(files, TOKENIZERS, HUB_EXAMPLE)
        loaded.text_encoders = _load_text(files, device=device, dtype=dtype, seed=seed)
        for tokenizer, module, what in zip(
            loaded.tokenizers, loaded.text_encoders, (CLIP_WHAT, T5_WHAT), strict=True
        ):
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
    module: Any
    if "denoiser" in files.from_scratch:
        config = config_fields(FluxTransformer2DModel, denoiser_config(files))
        module = from_scratch(lambda: _zeroed(FluxTransformer2DModel(**config)), seed, WHAT, device)
    else:
        module = sketch_denoiser(files)
        checkpoint = open_part(_path(files), "flux-denoiser")
        inner, key_map = flux_denoiser(checkpoint)
        load_into(module, inner, key_map, dtype=dtype, device=device, what=WHAT)
    use_our_attention([*module.transformer_blocks, *module.single_transformer_blocks])
    return module.requires_grad_(False).eval()


def sketch_denoiser(files: ModelFiles) -> nn.Module:
    """The denoiser's modules with parameters on the meta device, a `FluxTransformer2DModel`."""
    config = config_fields(FluxTransformer2DModel, denoiser_config(files))
    module: nn.Module = skeleton(lambda: FluxTransformer2DModel(**config))
    return module


def denoiser_config(files: ModelFiles) -> dict[str, Any]:
    """From a folder's config.json, or read off the shapes in a single file."""
    path = _path(files)
    if path.is_dir():
        return part_config(FluxTransformer2DModel, path, WHAT)
    checkpoint = open_part(path, "flux-denoiser")
    return dict(flux_config(checkpoint))


def save_flux(
    parts: Parts, files: ModelFiles, folder: Path, saved: Sequence[PartName], dtype: torch.dtype
) -> None:
    """See `Family.save`."""
    modules: dict[str, SavedModule] = {}
    if "denoiser" in saved:
        modules["transformer"] = from_diffusers(parts.denoiser)
    if "autoencoder" in saved:
        modules["vae"] = from_diffusers(parts.autoencoder)
    if "text_encoders" in saved:
        clip, t5 = parts.modules("text_encoders")
        modules["text_encoder"] = from_transformers(clip, CLIP_PREFIX)
        modules["text_encoder_2"] = from_transformers(t5)
    scheduler = scheduler_config(files) or _scheduler(parts.info.shifted)
    documents = {"model_index.json": pipeline_index("FluxPipeline", INDEX), SCHEDULER: scheduler}
    if (defaults := own_defaults(files)) is not None:
        documents[DEFAULTS] = defaults
    tokenizers = given_folders(files, TOKENIZERS)
    save_folder(folder, SavedModel(modules=modules, documents=documents, folders=tokenizers), dtype)


def _load_text(
    files: ModelFiles, *, device: torch.device, dtype: torch.dtype, seed: int
) -> tuple[nn.Module, ...]:
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


def _check_parts(config: dict[str, Any], channels: int, files: ModelFiles) -> None:
    """Refuse parts of different models, and denoisers that want more than noisy latents."""
    packed = int(config["in_channels"])
    if (config.get("out_channels") or packed) != packed:
        raise ModelError(
            f"this FLUX denoiser takes {packed} channels and gives {config['out_channels']}: it is one for inpainting "
            "or control, which is not supported. Give dev, schnell, Krea or a model made from them."
        )
    check_fit("autoencoder", "latent channels", channels, packed // 4)
    clip, t5 = encoder_paths(files, TEXT_FOLDERS)
    check_fit(CLIP_WHAT, "a width of", clip_width(clip), int(config["pooled_projection_dim"]))
    check_fit(T5_WHAT, "a width of", t5_width(t5), int(config["joint_attention_dim"]))


def _shifted(files: ModelFiles, guided: bool) -> bool:
    """Whether sampling times follow the image's size: the scheduler's config says it, else guided models do."""
    config = scheduler_config(files)
    return guided if config is None else bool(config.get("use_dynamic_shifting", False))


def _scheduler(shifted: bool) -> dict[str, Any]:
    """What diffusers reads where no scheduler's config came with the model."""
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 3.0 if shifted else 1.0,
        "use_dynamic_shifting": shifted,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    }


def _zeroed(module: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Start with closed gates and a zero output, as DiT does (adaLN-zero, arXiv:2212.09748)."""
    for name, layer in module.named_modules():
        modulation = name.endswith((".norm1.linear", ".norm1_context.linear", ".norm.linear"))
        if isinstance(layer, nn.Linear) and (modulation or name in ("norm_out.linear", "proj_out")):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return module
