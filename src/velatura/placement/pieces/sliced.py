"""The KL autoencoder run in strips: what it gives whole, in a part of the memory.

Latents and what has their size are in memory whole, and so is one tensor of each level, the input of a residual block,
which the block's output replaces. What is larger than `HELD` within a block is not held but computed again for each
strip that wants it, about once for every group norm behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from velatura.placement.on_cuda import is_on_cuda
from velatura.placement.pieces.strips import Rows, added, convolved, doubled, kept, normalised, stored

HELD = 2**30  # bytes of a tensor within a block that may be kept
SCORES = 2**26  # bytes of attention scores at once, where torch holds them at all


def can_be_sliced(autoencoder: Any) -> bool:
    """Whether it is made of what this file knows, as those of SD and FLUX are."""
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    levels = all(_plain_level(level) for level in (*encoder.down_blocks, *decoder.up_blocks))
    return levels and all(_plain_middle(coder.mid_block) for coder in (encoder, decoder))


@torch.no_grad()
def encode_sliced(autoencoder: Any, image: Tensor) -> Tensor:
    """`[B, 3, H, W]` -> the moments `[B, 2 C, H / 8, W / 8]` of the posterior. For what `can_be_sliced`."""
    encoder = autoencoder.encoder
    x = kept(convolved(stored(image), encoder.conv_in))
    for level in encoder.down_blocks:
        for block in level.resnets:
            x = kept(_residual(stored(x), block, x.dtype), over=x)
        for layer in level.downsamplers or ():
            x = kept(_halved(stored(x), layer))
    return encoded_end(autoencoder, x)


@torch.no_grad()
def decode_sliced(autoencoder: Any, latents: Tensor) -> Tensor:
    """Latents before scaling, `[B, C, h, w]` -> `[B, 3, 8 h, 8 w]`. For what `can_be_sliced`."""
    decoder = autoencoder.decoder
    x = decoded_levels(decoder.up_blocks, decoded_start(autoencoder, latents))
    return kept(_ending(stored(x), decoder))


def encoded_end(autoencoder: Any, x: Tensor) -> Tensor:
    """The moments, from what the encoder's last level gives: all at the size of latents."""
    encoder = autoencoder.encoder
    moments = kept(_ending(stored(_middle(x, encoder.mid_block)), encoder))
    if autoencoder.quant_conv is not None:
        moments = autoencoder.quant_conv(moments)
    return moments


def decoded_start(autoencoder: Any, latents: Tensor) -> Tensor:
    """What the decoder's first level reads: all at the size of latents."""
    if autoencoder.post_quant_conv is not None:
        latents = autoencoder.post_quant_conv(latents)
    return _middle(autoencoder.decoder.conv_in(latents), autoencoder.decoder.mid_block)


def decoded_levels(levels: Sequence[Any], x: Tensor, held: int | None = None) -> Tensor:
    """What the decoder's first levels give before the upsampler of the last of them, from what the first one reads.

    That is overwritten. `held`: bytes in place of `HELD`.
    """
    source = stored(x)
    for index, level in enumerate(levels):
        if index:
            for layer in levels[index - 1].upsamplers or ():
                source = _if_small(convolved(doubled(source), layer.conv), x.dtype, held)
        for block in level.resnets:
            x = kept(_residual(source, block, x.dtype, held), over=x)
            source = stored(x)
    return x


def _middle(x: Tensor, middle: Any) -> Tensor:
    """Residual blocks with attention between them."""
    x = kept(_residual(stored(x), middle.resnets[0], x.dtype))
    for attention, block in zip(middle.attentions, middle.resnets[1:], strict=True):
        if attention is not None:
            x = _attended(x, attention)
        x = kept(_residual(stored(x), block, x.dtype), over=x)
    return x


def _attended(x: Tensor, layer: Attention) -> Tensor:
    """Every place looks at all places, some of them at a time: scores of all pairs may not fit, and are not needed."""
    batch, channels, height, width = x.shape
    tokens = layer.group_norm(x.flatten(2)).transpose(1, 2)

    def heads(linear: nn.Module) -> Tensor:
        out: Tensor = linear(tokens)
        return out.reshape(batch, height * width, layer.heads, -1).transpose(1, 2)

    query, key, value = heads(layer.to_q), heads(layer.to_k), heads(layer.to_v)
    rows = max(1, SCORES // (4 * batch * layer.heads * height * width))
    if is_on_cuda(x.device) and torch.backends.cuda.mem_efficient_sdp_enabled():
        rows = height * width  # its kernels hold no scores, and want many queries to keep it busy
    parts = [F.scaled_dot_product_attention(some, key, value) for some in query.split(rows, dim=2)]
    out: Tensor = layer.to_out[0](torch.cat(parts, dim=2).transpose(1, 2).flatten(2))
    return out.transpose(1, 2).reshape(batch, channels, height, width) + x


def _residual(x: Rows, block: ResnetBlock2D, dtype: torch.dtype, held: int | None = None) -> Rows:
    """x, or its projection, and two convolutions of it, each of an activated norm."""
    act = block.nonlinearity
    inner = _if_small(convolved(normalised(x, block.norm1, act), block.conv1), dtype, held)
    inner = convolved(normalised(inner, block.norm2, act), block.conv2)
    return added(x if block.conv_shortcut is None else convolved(x, block.conv_shortcut), inner)


def _halved(x: Rows, layer: Downsample2D) -> Rows:
    """A convolution of stride 2; without padding of its own it gets zeros below and to the right."""
    return convolved(x, layer.conv, more=(0, 1) if layer.padding == 0 else (0, 0))


def _ending(x: Rows, coder: Any) -> Rows:
    return convolved(normalised(x, coder.conv_norm_out, coder.conv_act), coder.conv_out)


def _if_small(x: Rows, dtype: torch.dtype, held: int | None) -> Rows:
    """Computed now and held, unless it is large."""
    return stored(kept(x)) if x.size * dtype.itemsize <= (HELD if held is None else held) else x


def _plain_level(level: Any) -> bool:
    sizers = (*(getattr(level, "upsamplers", None) or ()), *(getattr(level, "downsamplers", None) or ()))
    return (
        not getattr(level, "attentions", None)
        and all(_plain_block(block) for block in level.resnets)
        and all(
            isinstance(one, Upsample2D | Downsample2D) and isinstance(one.conv, nn.Conv2d) for one in sizers
        )
    )


def _plain_middle(middle: Any) -> bool:
    attentions = [layer for layer in middle.attentions if layer is not None]
    return all(_plain_block(block) for block in middle.resnets) and all(
        isinstance(layer, Attention)
        and layer.group_norm is not None
        and layer.residual_connection
        and layer.rescale_output_factor == 1
        for layer in attentions
    )


def _plain_block(block: Any) -> bool:
    return (
        type(block) is ResnetBlock2D
        and isinstance(block.norm1, nn.GroupNorm)
        and block.output_scale_factor == 1
    )
