"""FLUX.1's two kinds of blocks over diffusers' modules.

Same mathematics as diffusers' own blocks, with three differences. A block is given its modulation, which the caller
computes: those layers are a quarter of the weights, read nothing but one vector per item, and need not be where the
blocks are, nor be run again with them. Single blocks pass text and image on as one sequence; the last one makes the
image alone, since nothing reads what it would make of the text. Rotations are products of complex numbers, the fastest
form without a compiler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from velatura.placement.attention import Attention

# B items, L text tokens, N image tokens, T = L + N, D width, H heads, E head size

Rotary = tuple[Tensor, Tensor]  # cos and sin, [T, E / 2] float32


def use_our_blocks(model: Any) -> None:
    """Let the blocks of a `FluxTransformer2DModel` be run as below, which its own forward does not know how to do."""
    for layer in attentions_of(model):
        layer.attend = Attention()
    for block in model.transformer_blocks:
        block.forward = MethodType(_double, block)
        for mlp in (block.ff, block.ff_context):
            mlp.net[0].gelu = gelu
    for block in model.single_transformer_blocks:
        block.forward = MethodType(_single, block)
        block.feed_forward = MethodType(_feed_forward, block)
    block.forward = MethodType(_last_single, block)


def attentions_of(model: Any) -> list[Any]:
    """The layers of attention of all blocks; each is computed by its `attend`."""
    return [block.attn for block in (*model.transformer_blocks, *model.single_transformer_blocks)]


def modulations(block: Any) -> Sequence[nn.Module]:
    """The layers `[D] -> [6 D or 3 D]` that make a block's modulation: of image and text, or of both as one."""
    if hasattr(block, "norm1_context"):
        return block.norm1.linear, block.norm1_context.linear
    return (block.norm.linear,)


def feed_forwards(block: Any) -> Sequence[tuple[nn.Module, str]]:
    """What a block recomputes where only its feed-forward parts are recomputed: modules, and names of methods."""
    if hasattr(block, "ff_context"):
        return (block.ff, "forward"), (block.ff_context, "forward")
    return ((block, "feed_forward"),)


def _double(
    block: Any, text: Tensor, image: Tensor, modulation: Tensor, rotary: Rotary
) -> tuple[Tensor, Tensor]:
    """`[B, L, D]`, `[B, N, D]`, `[B, 12 D]` -> the streams of text and image, which meet in the attention."""
    of_image, of_text = modulation[:, None].chunk(2, dim=-1)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = of_image.chunk(6, dim=-1)
    text_shift, text_scale, text_gate, text_mlp_shift, text_mlp_scale, text_mlp_gate = of_text.chunk(
        6, dim=-1
    )

    attended_text, attended = _joint_attention(
        block.attn,
        _modulated(block.norm1_context.norm, text, text_shift, text_scale),
        _modulated(block.norm1.norm, image, shift, scale),
        rotary,
    )
    image = image + gate * attended
    image = image + mlp_gate * block.ff(_modulated(block.norm2, image, mlp_shift, mlp_scale))
    text = text + text_gate * attended_text
    text = text + text_mlp_gate * block.ff_context(
        _modulated(block.norm2_context, text, text_mlp_shift, text_mlp_scale)
    )
    return _bounded(text), image


def _single(block: Any, tokens: Tensor, modulation: Tensor, rotary: Rotary) -> Tensor:
    """`[B, T, D]`, `[B, 3 D]` -> `[B, T, D]`: attention and MLP side by side."""
    shift, scale, gate = modulation[:, None].chunk(3, dim=-1)
    normed = _modulated(block.norm.norm, tokens, shift, scale)
    attn = block.attn
    query = _normed(attn.norm_q, _heads(attn.to_q(normed), attn))
    key = _normed(attn.norm_k, _heads(attn.to_k(normed), attn))
    attended = _attention(attn, query, key, _heads(attn.to_v(normed), attn), rotary)
    return _bounded(tokens + gate * block.feed_forward(block.proj_mlp(normed), attended))


def _last_single(block: Any, tokens: Tensor, image: Tensor, modulation: Tensor, rotary: Rotary) -> Tensor:
    """The same for the image alone: `[B, T, D]` and its last rows `[B, N, D]` -> `[B, N, D]`; text is attended to."""
    shift, scale, gate = modulation[:, None].chunk(3, dim=-1)
    normed = _modulated(block.norm.norm, tokens, shift, scale)
    own = normed[:, -image.shape[1] :]
    attn = block.attn
    key = _normed(attn.norm_k, _heads(attn.to_k(normed), attn))
    value = _heads(attn.to_v(normed), attn)
    query = _normed(attn.norm_q, _heads(attn.to_q(own), attn))
    attended = _attention(attn, query, key, value, rotary)
    return _bounded(image + gate * block.feed_forward(block.proj_mlp(own), attended))


def _feed_forward(block: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    """A single block's MLP after its first layer, `[B, T, 4 D]`, joined with the attention and projected: `[B, T, D]`.

    That layer may share a down projection with the attention's, so it is no part of what can be run again by itself.
    """
    out: Tensor = block.proj_out(torch.cat((attended, gelu(hidden)), dim=2))
    return out


def _modulated(norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    with _own_dtype(x):
        normed: Tensor = norm(x)
    return normed * (1 + scale) + shift


def _joint_attention(attn: Any, text: Tensor, image: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
    """`[B, L, D]`, `[B, N, D]` -> what each stream takes from both."""
    query = _normed(attn.norm_q, _heads(attn.to_q(image), attn))
    key = _normed(attn.norm_k, _heads(attn.to_k(image), attn))
    value = _heads(attn.to_v(image), attn)
    text_query = _normed(attn.norm_added_q, _heads(attn.add_q_proj(text), attn))
    text_key = _normed(attn.norm_added_k, _heads(attn.add_k_proj(text), attn))
    text_value = _heads(attn.add_v_proj(text), attn)
    out = _attention(
        attn,
        torch.cat((text_query, query), dim=1),
        torch.cat((text_key, key), dim=1),
        torch.cat((text_value, value), dim=1),
        rotary,
    )
    length = text.shape[1]
    return attn.to_add_out(out[:, :length]), attn.to_out[0](out[:, length:])


def _attention(attn: Any, query: Tensor, key: Tensor, value: Tensor, rotary: Rotary) -> Tensor:
    """`[B, T, H, E]` each -> `[B, T, H E]`; of fewer queries, which are those of the last tokens, as many."""
    cos, sin = (table[-query.shape[1] :] for table in rotary)
    out: Tensor = attn.attend(rotated(query, (cos, sin)), rotated(key, rotary), value)
    return out.flatten(2, 3)


def _normed(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """In the dtype of x: of a wider weight, as autocast leaves it, torch has no fused kernel."""
    with _own_dtype(x):
        return F.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)


def _own_dtype(x: Tensor) -> AbstractContextManager[object]:
    """No autocast: on CUDA it makes norms give float32, and all that reads them keeps a copy. They sum in it anyway."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _heads(x: Tensor, attn: Any) -> Tensor:
    split: Tensor = x.unflatten(-1, (-1, attn.head_dim))
    return split


def rotated(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn each pair of neighbours in `[B, T, H, E]` by the table's angle, in float32."""
    cos, sin = (table[:, None] for table in rotary)  # [T, 1, E / 2]
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # compilers make one kernel of real numbers, and none of complex ones
        first, second = pairs.unbind(-1)
        turned = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    return turned.flatten(-2).to(x.dtype)


def gelu(x: Tensor) -> Tensor:
    """The form of GELU by tanh, 0.5 x (1 + tanh u) = x sigmoid(2 u) (arXiv:1606.08415).

    A compiler makes one kernel of the right-hand side, whose exponential costs less than half of a tanh.
    """
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    wide = x.float()
    doubled = 2 * math.sqrt(2 / math.pi) * wide * (1 + 0.044715 * wide * wide)
    return (wide * torch.sigmoid(doubled)).to(x.dtype)


def _bounded(x: Tensor) -> Tensor:
    """fp16 ends at 65504, and single tokens of FLUX go beyond."""
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x
