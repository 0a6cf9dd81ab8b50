"""Stable Diffusion 1.x and 2.x: the single file that holds all parts, and its UNet's two layouts.

The file numbers the UNet's stages through (`input_blocks.0` to `11`), diffusers groups them by level. The
text encoder of SD 1 is CLIP (`text_keys`), the autoencoder that of LDM (`vae_keys`). Any number of levels and
layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.flux_keys import count_blocks, without_prefix
from velatura.checkpoints.keymap import KeyMap, Rule
from velatura.errors import ModelError

FILE_IGNORED = (  # what training left in single files: noise schedules and averaged copies
    "alphas_cumprod*",
    "betas",
    "log_one_minus_alphas_cumprod",
    "posterior_*",
    "sqrt_*",
    "model_ema.*",
)
_RESIDUAL = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
_OUTER = (
    Rule("time_embed.0", "time_embedding.linear_1"),
    Rule("time_embed.2", "time_embedding.linear_2"),
    Rule("input_blocks.0.0", "conv_in"),
    Rule("out.0", "conv_norm_out"),
    Rule("out.2", "conv_out"),
    Rule("middle_block.1", "mid_block.attentions.0"),
)


@dataclass(frozen=True, kw_only=True)
class UNetShape:
    """What the numbering of a UNet's file depends on.

    attention: for each level from the image down, whether it has cross-attention; layers: residual blocks per
    level on the way down, one more on the way up.
    """

    attention: tuple[bool, ...]
    layers: int


def sd1_unet_key_map(shape: UNetShape) -> KeyMap:
    """The map between the UNet in an SD 1.x / 2.x file, without its prefix, and a `UNet2DConditionModel`."""
    rules = [*_OUTER, *_residual("middle_block.0", "mid_block.resnets.0")]
    rules += _residual("middle_block.2", "mid_block.resnets.1")
    for level in range(len(shape.attention)):
        rules += _down(level, shape)
        rules += _up(level, shape)
    return KeyMap(rules)


def _residual(file: str, module: str) -> list[Rule]:
    return [Rule(f"{file}.{theirs}", f"{module}.{ours}") for theirs, ours in _RESIDUAL]


def _down(level: int, shape: UNetShape) -> Iterable[Rule]:
    first = 1 + level * (shape.layers + 1)
    for layer in range(shape.layers):
        yield from _residual(f"input_blocks.{first + layer}.0", f"down_blocks.{level}.resnets.{layer}")
        if shape.attention[level]:
            yield Rule(f"input_blocks.{first + layer}.1", f"down_blocks.{level}.attentions.{layer}")
    if level < len(shape.attention) - 1:
        yield Rule(f"input_blocks.{first + shape.layers}.0.op", f"down_blocks.{level}.downsamplers.0.conv")


def _up(level: int, shape: UNetShape) -> Iterable[Rule]:
    first = level * (shape.layers + 1)
    attention = shape.attention[len(shape.attention) - 1 - level]
    for layer in range(shape.layers + 1):
        yield from _residual(f"output_blocks.{first + layer}.0", f"up_blocks.{level}.resnets.{layer}")
        if attention:
            yield Rule(f"output_blocks.{first + layer}.1", f"up_blocks.{level}.attentions.{layer}")
    if level < len(shape.attention) - 1:
        place = 2 if attention else 1
        yield Rule(
            f"output_blocks.{first + shape.layers}.{place}.conv", f"up_blocks.{level}.upsamplers.0.conv"
        )


def sd1_unet(checkpoint: Checkpoint) -> tuple[Checkpoint, KeyMap]:
    """The UNet within a file and the map that reads it, whichever of the two layouts it has. Raises ModelError."""
    inner = without_prefix(checkpoint)
    if "input_blocks.0.0.weight" in inner:
        return inner, sd1_unet_key_map(_file_shape(inner))
    if "conv_in.weight" in inner and "down_blocks.0.resnets.0.conv1.weight" in inner:
        return inner, KeyMap.same()
    raise ModelError(
        f"{checkpoint.name}: no Stable Diffusion UNet in it: expected input_blocks.0.0.weight or "
        f"down_blocks.0.resnets.0.conv1.weight; it starts with {inner.keys()[:3]}."
    )


def _file_shape(inner: Checkpoint) -> UNetShape:
    stages = count_blocks(inner, "input_blocks")
    downs = [i for i in range(stages) if f"input_blocks.{i}.0.op.weight" in inner]
    layers = downs[0] - 1 if downs else stages - 1
    levels = len(downs) + 1
    if layers < 1 or stages != levels * (layers + 1):
        raise ModelError(f"{inner.name}: its {stages} input blocks do not divide into {levels} equal levels.")
    firsts = (1 + level * (layers + 1) for level in range(levels))
    return UNetShape(
        attention=tuple(f"input_blocks.{i}.1.norm.weight" in inner for i in firsts), layers=layers
    )


def sd1_unet_config(
    checkpoint: Checkpoint, *, norm_num_groups: int = 32
) -> dict[str, int | bool | list[int] | list[str]]:
    """Arguments of `UNet2DConditionModel` read off the shapes of a file in either layout.

    Heads are not stored: SD 1.x (text width 768 and others but 1024) has 8 per layer, SD 2.x (1024) heads of
    64. Neither is the prediction type of SD 2.x: the family decides. Raises ModelError.
    """
    inner, key_map = sd1_unet(checkpoint)
    shape = _file_shape(inner) if "input_blocks.0.0.weight" in inner else _module_shape(inner)

    def dims(name: str, count: int = 4) -> tuple[int, ...]:
        return inner.sizes(key_map.file_name(name), count)

    levels = len(shape.attention)
    widths = [dims(f"down_blocks.{level}.resnets.0.conv1.weight")[0] for level in range(levels)]
    if any(width % norm_num_groups for width in widths):
        problem = f"its widths {widths} are not multiples of {norm_num_groups} norm groups"
        raise ModelError(f"{checkpoint.name}: {problem}; put its config.json beside it.")
    text = dims("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", 2)[1]
    projection = key_map.file_name("mid_block.attentions.0.proj_in.weight")
    types = [("CrossAttn" if attention else "") for attention in shape.attention]
    return {
        "in_channels": dims("conv_in.weight")[1],
        "out_channels": dims("conv_out.weight")[0],
        "block_out_channels": widths,
        "down_block_types": [f"{kind}DownBlock2D" for kind in types],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(types)],
        "layers_per_block": shape.layers,
        "cross_attention_dim": text,
        "attention_head_dim": [width // 64 for width in widths] if text == 1024 else 8,
        "use_linear_projection": len(inner.shape(projection)) == 2,
        "norm_num_groups": norm_num_groups,
    }


def _module_shape(inner: Checkpoint) -> UNetShape:
    levels = range(count_blocks(inner, "down_blocks"))
    attention = tuple(f"down_blocks.{level}.attentions.0.norm.weight" in inner for level in levels)
    return UNetShape(attention=attention, layers=count_blocks(inner, "down_blocks.0.resnets"))
