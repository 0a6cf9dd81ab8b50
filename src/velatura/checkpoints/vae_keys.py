"""The image autoencoder's layouts: LDM / Black Forest Labs files and the diffusers `AutoencoderKL`.

The decoder's levels are numbered from the latent up in diffusers, from the image down in LDM; the attention
in the middle is 1x1 convolutions in LDM, linear layers in diffusers.
"""

from __future__ import annotations

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.flux_keys import count_blocks
from velatura.checkpoints.keymap import KeyMap, Rule
from velatura.errors import ModelError

PREFIXES = ("first_stage_model.", "vae.")
_OLD_ATTENTION = (  # diffusers before 0.15; the published SD 1.5 autoencoders still have these names
    ("query", "to_q"),
    ("key", "to_k"),
    ("value", "to_v"),
    ("proj_attn", "to_out.0"),
)
_LDM_ATTENTION = (
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
)


def vae_key_map(*, levels: int, layers: int) -> KeyMap:
    """The map between an LDM / BFL autoencoder file and an `AutoencoderKL`.

    levels: resolutions (4 in FLUX and SD); layers: residual blocks per level of the encoder (2), the decoder
    has one more.
    """
    rules = [Rule("quant_conv", "quant_conv"), Rule("post_quant_conv", "post_quant_conv")]
    for side in ("encoder", "decoder"):
        rules += _ends(side)
    for level in range(levels):
        rules += _level(f"encoder.down.{level}", f"encoder.down_blocks.{level}", layers)
        rules.append(
            Rule(f"encoder.down.{level}.downsample.conv", f"encoder.down_blocks.{level}.downsamplers.0.conv")
        )
        up, ours = f"decoder.up.{levels - 1 - level}", f"decoder.up_blocks.{level}"
        rules += _level(up, ours, layers + 1)
        rules.append(Rule(f"{up}.upsample.conv", f"{ours}.upsamplers.0.conv"))
    return KeyMap(rules)


def _ends(side: str) -> list[Rule]:
    attention, ours = f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0"
    return [
        Rule(f"{side}.conv_in", f"{side}.conv_in"),
        Rule(f"{side}.norm_out", f"{side}.conv_norm_out"),
        Rule(f"{side}.conv_out", f"{side}.conv_out"),
        *_residual(f"{side}.mid.block_1", f"{side}.mid_block.resnets.0"),
        *_residual(f"{side}.mid.block_2", f"{side}.mid_block.resnets.1"),
        *(Rule(f"{attention}.{theirs}", f"{ours}.{name}", "conv_1x1") for theirs, name in _LDM_ATTENTION),
    ]


def _level(file: str, module: str, layers: int) -> list[Rule]:
    blocks = (_residual(f"{file}.block.{j}", f"{module}.resnets.{j}") for j in range(layers))
    return [rule for block in blocks for rule in block]


def _residual(file: str, module: str) -> list[Rule]:
    names = (("norm1", "norm1"), ("conv1", "conv1"), ("norm2", "norm2"), ("conv2", "conv2"))
    return [Rule(f"{file}.{a}", f"{module}.{b}") for a, b in (*names, ("nin_shortcut", "conv_shortcut"))]


def autoencoder(checkpoint: Checkpoint) -> tuple[Checkpoint, KeyMap]:
    """The autoencoder within a file and the map that reads it, whichever layout it has. Raises ModelError."""
    inner = checkpoint
    for prefix in PREFIXES:
        if any(key.startswith(prefix) for key in checkpoint):
            inner = checkpoint.under(prefix)
    if "encoder.down.0.block.0.conv1.weight" in inner:
        levels, layers = (count_blocks(inner, name) for name in ("encoder.down", "encoder.down.0.block"))
        return inner, vae_key_map(levels=levels, layers=layers)
    if "encoder.down_blocks.0.resnets.0.conv1.weight" in inner:
        old = "encoder.mid_block.attentions.0.query.weight" in inner
        return inner, _renamed_attention() if old else KeyMap.same()
    raise ModelError(
        f"{checkpoint.name}: no image autoencoder in it: expected encoder.down.0.block.0.conv1.weight or "
        f"encoder.down_blocks.0.resnets.0.conv1.weight (diffusers); it starts with {inner.keys()[:3]}."
    )


def _renamed_attention() -> KeyMap:
    sides = (f"{side}.mid_block.attentions.0" for side in ("encoder", "decoder"))
    renamed = [
        Rule(f"{side}.{old}", f"{side}.{new}", "conv_1x1") for side in sides for old, new in _OLD_ATTENTION
    ]
    return KeyMap([Rule("", ""), *renamed])


def vae_config(
    checkpoint: Checkpoint, *, norm_num_groups: int = 32
) -> dict[str, int | bool | list[int] | list[str]]:
    """Arguments of `AutoencoderKL` read off the shapes of a file in either layout.

    Shapes do not tell the number of norm groups (32 in every published one), nor the scale and shift of the
    latents, which belong to the family. Raises ModelError.
    """
    inner, key_map = autoencoder(checkpoint)

    def shape(name: str) -> tuple[int, ...]:
        return inner.sizes(key_map.file_name(name), 4)

    ldm = "encoder.down.0.block.0.conv1.weight" in inner
    down, block = ("encoder.down", "block") if ldm else ("encoder.down_blocks", "resnets")
    levels = count_blocks(inner, down)
    widths = [shape(f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)]
    if any(width % norm_num_groups for width in widths):
        problem = f"its widths {widths} are not multiples of {norm_num_groups} norm groups"
        raise ModelError(f"{checkpoint.name}: {problem}; put its config.json beside it.")
    return {
        "in_channels": shape("encoder.conv_in.weight")[1],
        "out_channels": shape("decoder.conv_out.weight")[0],
        "latent_channels": shape("decoder.conv_in.weight")[1],
        "block_out_channels": widths,
        "layers_per_block": count_blocks(inner, f"{down}.0.{block}"),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": norm_num_groups,
        "use_quant_conv": "quant_conv.weight" in inner,
        "use_post_quant_conv": "post_quant_conv.weight" in inner,
        "mid_block_add_attention": any(".attn_1." in k or ".mid_block.attentions." in k for k in inner),
    }
