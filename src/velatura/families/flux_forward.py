"""The forward pass of FLUX.1 over diffusers' modules, as one readable function.

Same mathematics as `FluxTransformer2DModel.forward`, with three differences: t and guidance keep float32 until
their sinusoids are computed (bf16 would move t by up to 4/1000), the rotary table is made once per shape, and
nothing is wrapped in output classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

# L text tokens, N image tokens, D width, H heads, E head size


@dataclass(frozen=True, kw_only=True)
class FluxInputs:
    """What the FLUX denoiser eats."""

    tokens: Tensor  # [B, N, 64] packed noisy latents
    text: Tensor  # [B, L, joint]
    pooled: Tensor  # [B, pooled]
    t: Tensor  # [B] float32 in 0..1
    guidance: Tensor | None  # [B] float32
    grid: tuple[int, int]  # rows and columns of image tokens


def flux_forward(model: Any, inputs: FluxInputs) -> Tensor:
    """Predict packed velocities `[B, N, 64]`; `model` is a `FluxTransformer2DModel`."""
    image = model.x_embedder(inputs.tokens)
    text = model.context_embedder(inputs.text)
    vector = _vector(model.time_text_embed, inputs, image.dtype)
    axes = tuple(model.pos_embed.axes_dim)
    rotary = _rotary(axes, text.shape[1], inputs.grid, image.device)
    for block in model.transformer_blocks:
        text, image = block(image, text, vector, rotary)
    for block in model.single_transformer_blocks:
        text, image = block(image, text, vector, rotary)
    out: Tensor = model.proj_out(model.norm_out(image, vector))
    return out


def _vector(embed: Any, inputs: FluxInputs, dtype: torch.dtype) -> Tensor:
    """Sum of the embeddings of t, guidance and pooled text, `[B, D]`."""
    time: Tensor = embed.timestep_embedder(embed.time_proj(inputs.t.float() * 1000).to(dtype))
    pooled: Tensor = embed.text_embedder(inputs.pooled)
    if inputs.guidance is None:
        return time + pooled
    guidance: Tensor = embed.guidance_embedder(embed.time_proj(inputs.guidance.float() * 1000).to(dtype))
    return time + guidance + pooled


@lru_cache(maxsize=32)
def _rotary(
    axes: tuple[int, ...], text_length: int, grid: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """cos and sin `[L + N, E]`, each frequency twice in a row; text at (0, 0, 0), image at (0, row, column)."""
    rows, columns = grid
    ids = torch.zeros(text_length + rows * columns, 3, dtype=torch.float64)
    ids[text_length:, 1] = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)
    ids[text_length:, 2] = torch.arange(columns, dtype=torch.float64).repeat(rows)
    angles = []
    for axis, size in enumerate(axes):
        frequency = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles.append((ids[:, axis, None] * frequency).repeat_interleave(2, dim=-1))
    angle = torch.cat(angles, dim=-1)
    return angle.cos().float().to(device), angle.sin().float().to(device)


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate interleaved pairs of `[B, T, H, E]` by the table's angles, in float32."""
    cos, sin = (table[:, None] for table in rotary)  # [T, 1, E]
    pairs = x.float().unflatten(-1, (-1, 2))
    turned = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
    return (x.float() * cos + turned * sin).to(x.dtype)


class FluxAttention:
    """diffusers' attention processor protocol, with our rotation; joint when text is given apart."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """`[B, T, D]` -> `[B, T, D]`; with text, a pair (image, text)."""

        def heads(x: Tensor) -> Tensor:
            split: Tensor = x.unflatten(-1, (-1, attn.head_dim))
            return split

        query: Tensor = attn.norm_q(heads(attn.to_q(hidden_states)))
        key = attn.norm_k(heads(attn.to_k(hidden_states)))
        value = heads(attn.to_v(hidden_states))
        if encoder_hidden_states is not None:
            text_query = attn.norm_added_q(heads(attn.add_q_proj(encoder_hidden_states)))
            text_key = attn.norm_added_k(heads(attn.add_k_proj(encoder_hidden_states)))
            query = torch.cat((text_query, query), dim=1)
            key = torch.cat((text_key, key), dim=1)
            value = torch.cat((heads(attn.add_v_proj(encoder_hidden_states)), value), dim=1)
        if image_rotary_emb is not None:
            query, key = _rotate(query, image_rotary_emb), _rotate(key, image_rotary_emb)
        out: Tensor = dispatch_attention_fn(
            query, key, value, attn_mask=attention_mask, backend=self._attention_backend
        )
        out = out.flatten(2, 3).to(query.dtype)
        if encoder_hidden_states is None:
            return out
        text_length = encoder_hidden_states.shape[1]
        return attn.to_out[0](out[:, text_length:]), attn.to_add_out(out[:, :text_length])


def use_our_attention(blocks: Sequence[nn.Module]) -> None:
    """Set the processor above in every block."""
    for block in blocks:
        block.attn.set_processor(FluxAttention())  # type: ignore[operator, union-attr]
