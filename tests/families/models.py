"""Tiny random models in the shapes of the published ones, as diffusers saves them and as single files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from velatura.checkpoints.flux_keys import flux_key_map
from velatura.checkpoints.keymap import KeyMap, Rule
from velatura.checkpoints.pending import Pending
from velatura.checkpoints.published import load_config
from velatura.checkpoints.sd1_keys import UNetShape, sd1_unet_key_map
from velatura.checkpoints.vae_keys import vae_key_map
from velatura.checkpoints.writing import write_safetensors
from velatura.families.locate import POCKET

POCKET_FLUX = POCKET / "flux"
CLIP_PIECES, T5_PIECES = 213, 116
FLUX: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 64,
    "axes_dims_rope": [4, 6, 6],
}
UNET: dict[str, Any] = {
    "sample_size": 12,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 64,
    "attention_head_dim": 8,
}


def seeded(build: Any, seed: int) -> Any:
    """A model with its own initialisation, and no two norms or biases alike."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module: nn.Module = build()
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return module.float().eval().requires_grad_(False)


def flux(*, guidance: bool, seed: int = 0) -> FluxTransformer2DModel:
    return seeded(lambda: FluxTransformer2DModel(**FLUX, guidance_embeds=guidance), seed)


def unet(seed: int = 1, **changes: Any) -> UNet2DConditionModel:
    return seeded(lambda: UNet2DConditionModel(**{**UNET, **changes}), seed)


def vae(*, flux_like: bool, seed: int = 2) -> AutoencoderKL:
    published = load_config("flux-vae" if flux_like else "sd15-vae")
    small = {
        "block_out_channels": [32, 64],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "latent_channels": 4,
        "layers_per_block": 1,
        "sample_size": 24,
    }
    return seeded(lambda: AutoencoderKL(**{**published, **small}), seed)


def clip(seed: int = 3) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=CLIP_PIECES,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=1,
        max_position_embeddings=32,
        bos_token_id=CLIP_PIECES - 2,
        eos_token_id=CLIP_PIECES - 1,
        pad_token_id=CLIP_PIECES - 1,
    )
    return seeded(lambda: CLIPTextModel(config), seed)


def t5(seed: int = 4) -> T5EncoderModel:
    config = T5Config(
        vocab_size=T5_PIECES,
        d_model=24,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=3,
        feed_forward_proj="gated-gelu",
    )
    return seeded(lambda: T5EncoderModel(config), seed)


def clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(POCKET_FLUX / "tokenizer")


def t5_tokenizer() -> T5TokenizerFast:
    return T5TokenizerFast.from_pretrained(POCKET_FLUX / "tokenizer_2")


def flux_folder(folder: Path) -> Path:
    """A guided FLUX with sampling times shifted by size, as FLUX.1-dev."""
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae(flux_like=True),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
        transformer=flux(guidance=True),
    ).save_pretrained(folder)
    return folder


def sd1_folder(folder: Path) -> Path:
    """A Stable Diffusion 1.x that predicts noise."""
    StableDiffusionPipeline(
        scheduler=PNDMScheduler.from_config(load_config("sd15-scheduler")),
        vae=vae(flux_like=False),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        unet=unet(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def flux_single_files(folder: Path) -> Path:
    """The same FLUX as BFL and ComfyUI publish it: flux.safetensors, ae.…, clip_l.…, t5xxl.…, and tokenizers."""
    folder.mkdir()
    bfl = flux_key_map(double_blocks=2, single_blocks=2)
    write_safetensors(folder / "flux.safetensors", bfl.to_file(flux(guidance=True).state_dict()))
    ldm = vae_key_map(levels=2, layers=1)
    write_safetensors(folder / "ae.safetensors", ldm.to_file(vae(flux_like=True).state_dict()))
    write_safetensors(folder / "clip_l.safetensors", clip_file(""))
    encoder = {k: v for k, v in t5().state_dict().items() if k != "encoder.embed_tokens.weight"}
    write_safetensors(folder / "t5xxl.safetensors", encoder)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(POCKET_FLUX / name, folder / name)
    return folder


def sd1_single_file(path: Path) -> Path:
    """The same Stable Diffusion as one LDM file, with what training left in such files."""
    parts: dict[str, Mapping[str, Any]] = {
        "model.diffusion_model.": sd1_unet_key_map(UNetShape(attention=(True, False), layers=1)).to_file(
            unet().state_dict()
        ),
        "first_stage_model.": vae_key_map(levels=2, layers=1).to_file(vae(flux_like=False).state_dict()),
        "cond_stage_model.transformer.": clip_file(""),
    }
    tensors = {prefix + key: tensor for prefix, part in parts.items() for key, tensor in part.items()}
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(32)[None]
    tensors["alphas_cumprod"] = torch.zeros(4)
    write_safetensors(path, tensors)
    return path


def clip_file(prefix: str) -> dict[str, Pending]:
    """CLIP's tensors under the names of files."""
    return KeyMap([Rule(prefix + "text_model", "")]).to_file(clip().state_dict())


def same(a: nn.Module | None, b: nn.Module) -> bool:
    """Whether two modules hold the same tensors, bit for bit, under the same names."""
    if a is None:
        return False
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
