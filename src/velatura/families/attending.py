"""The attention that a user asked for, as far as the model and the machine can have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from velatura.events import Events
from velatura.interfaces import Family, ModelFiles
from velatura.placement.attention import Attention, AttentionName, why_not


def attention_for(
    family: Family,
    files: ModelFiles,
    name: AttentionName,
    *,
    split: bool = False,
    device: torch.device,
    dtype: torch.dtype,
    events: Events,
) -> Attention:
    """By the kernel `name`, or by SDPA where that cannot be had, with a warning that says why. Raises ModelError."""
    if name == "sdpa":
        return Attention(split=split)
    heads = {_head_size(layer) for layer in family.attentions(family.sketch(files))}
    if reason := why_not(name, device=device, dtype=dtype, heads=heads):
        events.warn(f'attention "{name}" cannot be had: {reason}; "sdpa" is used instead')
        name = "sdpa"
    return Attention(name=name, split=split)


def attend_by(family: Family, denoiser: nn.Module, attention: Attention) -> None:
    """Let all attention of a denoiser be computed so from now on."""
    for layer in family.attentions(denoiser):
        layer.attend = attention


def _head_size(layer: Any) -> int:
    return int(layer.inner_dim) // int(layer.heads)
