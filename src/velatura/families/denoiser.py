"""The denoiser as a recipe or a request wants its weights: all of them, or its blocks in few bits."""

from __future__ import annotations

import torch
from torch import nn

from velatura.errors import RecipeError
from velatura.events import Events
from velatura.families.latent_family import loaded
from velatura.interfaces import Family, ModelFiles
from velatura.placement.precision.quantised import Weights, quantise_blocks
from velatura.plural import counted


def load_denoiser(
    family: Family,
    files: ModelFiles,
    events: Events,
    *,
    weights: Weights,
    device: torch.device,
    dtype: torch.dtype | None,
    seed: int = 0,
) -> nn.Module:
    """The denoiser in `dtype`; the linear layers of its blocks in fp8, int8 or nf4 unless `weights` is full.

    What is made small is made so in the machine's memory, before the device sees it. fp8 layers of an fp8 file are held
    as they are stored where fp8 is wanted. Raises as `Family.load` does, and RecipeError for a device that has no such
    numbers.
    """
    if weights == "fp8" and device.type == "mps":
        raise RecipeError(
            "weights in fp8 cannot be held on mps; choose int8, nf4 or full weights, or the device cpu"
        )
    whole = weights == "full"
    where = device if whole else torch.device("cpu")
    parts = family.load(files, ["denoiser"], device=where, dtype=dtype, seed=seed, keep_fp8=weights == "fp8")
    denoiser = loaded(parts.denoiser, "denoiser")
    if whole:
        return denoiser
    count = quantise_blocks(family.blocks(denoiser), weights)
    events.notice(f"{counted(count, 'linear layer is', 'linear layers are')} held in {weights}")
    return denoiser.to(device)
