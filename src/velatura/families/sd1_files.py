"""Stable Diffusion 1.x's parts in files: LDM single files and diffusers folders."""

from __future__ import annotations

from diffusers import UNet2DConditionModel

from velatura.checkpoints.sd1_keys import sd1_unet, sd1_unet_config
from velatura.families.autoencoder import kl_autoencoder
from velatura.families.listing import Listing
from velatura.families.network import DiffusersNetwork, Place
from velatura.families.text import CLIP, TextPlace
from velatura.families.unet import use_our_attention, zero_outputs

DENOISER = DiffusersNetwork(
    what="Stable Diffusion UNet",
    kind="sd1-unet",
    model=UNet2DConditionModel,
    find=sd1_unet,
    shapes=sd1_unet_config,
    published="sd15-unet",
    prepare=use_our_attention,
    start=zero_outputs,
)
SD1 = Listing(
    pipeline="StableDiffusionPipeline",
    denoiser=Place(network=DENOISER, subfolder="unet"),
    autoencoder=Place(network=kl_autoencoder("sd15-vae"), subfolder="vae"),
    text_encoders=(
        TextPlace(network=CLIP, subfolder="text_encoder", tokenizer_subfolder="tokenizer", length=77),
    ),
    hub_example="stable-diffusion-v1-5/stable-diffusion-v1-5",
    absent=("feature_extractor", "safety_checker"),
)
