"""The forward pass of FLUX.1 over diffusers' modules, as one readable function.

Same mathematics as `FluxTransformer2DModel.forward`, with three differences: t and guidance keep float32 until
their sinusoids are computed (bf16 would move t by up to 4/1000), the rotary table is made once per shape, and the
modulation of a block is computed outside of it (see `flux_blocks`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from velatura.families.flux_blocks import Rotary, modulations

# L text tokens, N image tokens, D width, E head size


@dataclass(frozen=True, kw_only=True)
class FluxInputs:
    """What the FLUX denoiser eats."""

    tokens: Tensor  # [B, N, 64] packed noisy latents
    text: Tensor  # [B, L, joint]
    pooled: Tensor  # [B, pooled]
    t: Tensor  # [B] float32 in 0..1
    guidance: Tensor | None  # [B] float32
    grid: tuple[int, int]  # rows and columns of image tokens
    steering: Steering | None = None  # what t, guidance and pooled come to, where that is known already


@dataclass(frozen=True, kw_only=True)
class Steering:
    """What the blocks and the last layer read of t, guidance and pooled text."""

    vector: Tensor  # [B, D]
    blocks: Iterable[Tensor]  # the modulation of each, [B, 12 D] or [B, 3 D]


def flux_forward(model: Any, inputs: FluxInputs) -> Tensor:
    """Predict packed velocities `[B, N, 64]`; `model` is a `FluxTransformer2DModel` that runs `flux_blocks`."""
    image = model.x_embedder(inputs.tokens)
    text = model.context_embedder(inputs.text)
    axes = tuple(model.pos_embed.axes_dim)
    rotary = _rotary(axes, text.shape[1], inputs.grid, image.device, type(image).__name__)
    steering = inputs.steering or steer(model, inputs.t, inputs.guidance, inputs.pooled)
    modulation = iter(steering.blocks)
    for block in model.transformer_blocks:
        text, image = block(text, image, next(modulation), rotary)
    tokens = torch.cat((text, image), dim=1)
    *singles, last = model.single_transformer_blocks
    for block in singles:
        tokens = block(tokens, next(modulation), rotary)
    image = last(tokens, tokens[:, text.shape[1] :], next(modulation), rotary)
    out: Tensor = model.proj_out(model.norm_out(image, steering.vector))
    return out


def steer(model: Any, t: Tensor, guidance: Tensor | None, pooled: Tensor) -> Steering:
    """From t and guidance, `[B]` float32, and pooled text `[B, pooled]`: the modulation of all blocks.

    Each is computed when it is asked for: streamed layers are copied while the block before is computed.
    """
    vector = _vector(model.time_text_embed, t, guidance, pooled)
    active = F.silu(vector)
    blocks = (*model.transformer_blocks, *model.single_transformer_blocks)
    made = ([layer(active) for layer in modulations(block)] for block in blocks)
    return Steering(vector=vector, blocks=(torch.cat(parts, dim=-1) for parts in made))


def _vector(embed: Any, t: Tensor, guidance: Tensor | None, pooled: Tensor) -> Tensor:
    """Sum of the embeddings of t, guidance and pooled text, `[B, D]`."""
    text: Tensor = embed.text_embedder(pooled)
    time: Tensor = embed.timestep_embedder(embed.time_proj(t.float() * 1000).to(text.dtype))
    if guidance is None:
        return time + text
    strength: Tensor = embed.guidance_embedder(embed.time_proj(guidance.float() * 1000).to(text.dtype))
    return time + strength + text


@lru_cache(maxsize=32)
def _rotary(
    axes: tuple[int, ...],
    text_length: int,
    grid: tuple[int, int],
    device: torch.device,
    kind: str = "Tensor",
) -> Rotary:
    """cos and sin `[L + N, E / 2]`; text stands at (0, 0, 0), image tokens at (0, row, column).

    `kind`: plans run the model with tensors that have no values, whose tables are kept apart.
    """
    rows, columns = grid
    ids = torch.zeros(text_length + rows * columns, 3, dtype=torch.float64)
    ids[text_length:, 1] = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)
    ids[text_length:, 2] = torch.arange(columns, dtype=torch.float64).repeat(rows)
    angles = []
    for axis, size in enumerate(axes):
        frequency = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles.append(ids[:, axis, None] * frequency)
    angle = torch.cat(angles, dim=-1)
    return angle.cos().float().to(device), angle.sin().float().to(device)
