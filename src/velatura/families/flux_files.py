"""FLUX.1's parts in files: BFL's single files and diffusers folders."""

from __future__ import annotations

from typing import Any

from diffusers import FluxTransformer2DModel
from torch import nn

from velatura.checkpoints.flux_keys import flux_config, flux_denoiser
from velatura.families.autoencoder import kl_autoencoder
from velatura.families.flux_blocks import use_our_blocks
from velatura.families.listing import Listing
from velatura.families.network import DiffusersNetwork, Place
from velatura.families.text import CLIP, T5, TextPlace


def _close_gates(module: FluxTransformer2DModel) -> None:
    """Start with closed gates and a zero output, as DiT does (adaLN-zero, arXiv:2212.09748)."""
    for name, layer in module.named_modules():
        modulation = name.endswith((".norm1.linear", ".norm1_context.linear", ".norm.linear"))
        if isinstance(layer, nn.Linear) and (modulation or name in ("norm_out.linear", "proj_out")):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


DENOISER = DiffusersNetwork(
    what="FLUX denoiser",
    kind="flux-denoiser",
    model=FluxTransformer2DModel,
    find=flux_denoiser,
    shapes=flux_config,
    usual="flux-dev-transformer",
    prepare=use_our_blocks,
    start=_close_gates,
)
FLUX = Listing(
    pipeline="FluxPipeline",
    denoiser=Place(network=DENOISER, subfolder="transformer"),
    autoencoder=Place(network=kl_autoencoder("flux-vae"), subfolder="vae"),
    text_encoders=(
        TextPlace(network=CLIP, subfolder="text_encoder", tokenizer_subfolder="tokenizer", length=77),
        TextPlace(network=T5, subfolder="text_encoder_2", tokenizer_subfolder="tokenizer_2", length=512),
    ),
    hub_example="black-forest-labs/FLUX.1-dev",
)


def flow_scheduler(shifted: bool) -> dict[str, Any]:
    """The scheduler's config for models that came without one."""
    return {
        "num_train_timesteps": 1000,
        "shift": 3.0 if shifted else 1.0,
        "use_dynamic_shifting": shifted,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    }
