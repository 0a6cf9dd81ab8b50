"""Small models in the shapes of the published ones, and files made by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import nn

TINY_FLUX: dict[str, Any] = {  # three heads of 8: an odd width, and rows of different counts everywhere
    "in_channels": 12,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "joint_attention_dim": 10,
    "pooled_projection_dim": 6,
    "axes_dims_rope": [4, 2, 2],
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tiny_flux(*, guidance: bool = True, seed: int = 0) -> FluxTransformer2DModel:
    """A FLUX denoiser with distinct random values in every tensor."""
    torch.manual_seed(seed)
    model = FluxTransformer2DModel(**TINY_FLUX, guidance_embeds=guidance)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def tiny_vae(*, levels: int = 3, quant: bool = True, layers: int = 1, seed: int = 0) -> AutoencoderKL:
    """An autoencoder with distinct random values in every tensor."""
    torch.manual_seed(seed)
    model = AutoencoderKL(
        block_out_channels=[8 * (i + 1) for i in range(levels)],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=3,
        norm_num_groups=4,
        layers_per_block=layers,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters and stored buffers."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict(keep_vars=True).items()}


def md5_of_names_and_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """DiffSynth's fingerprint of a file: md5 over the sorted `name:d1_d2` and `name` of all tensors.

    It has a table of these for the published files, which proves our layouts without the files.
    """
    sized = [f"{name}:{'_'.join(map(str, shape))}" for name, shape in shapes.items()]
    return hashlib.md5(",".join(sorted([*shapes, *sized])).encode()).hexdigest()


def raw_file(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """A file in the layout of safetensors with whatever header; a str header is written as it is."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path
