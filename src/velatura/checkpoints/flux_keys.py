"""The FLUX denoiser's two layouts, at any width and depth: Black Forest Labs' (BFL) and that of diffusers.

BFL joins what reads the same input: q, k, v of a stream in `qkv`; q, k, v and the MLP of a single block in
`linear1`. Its final modulation is (shift, scale), that of diffusers (scale, shift).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from velatura.checkpoints.checkpoint import Checkpoint, Shape
from velatura.checkpoints.keymap import KeyMap, Rule
from velatura.errors import ModelError

PREFIXES = ("model.diffusion_model.", "diffusion_model.")  # what merged and ComfyUI files put before a name

OUTER = (
    Rule("img_in", "x_embedder"),
    Rule("txt_in", "context_embedder"),
    Rule("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    Rule("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    Rule("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    Rule("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    Rule("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),  # absent from schnell
    Rule("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    Rule("final_layer.adaLN_modulation.1", "norm_out.linear", "swapped_halves"),
    Rule("final_layer.linear", "proj_out"),
)
DOUBLE = (  # below double_blocks.N and transformer_blocks.N
    Rule("img_mod.lin", "norm1.linear"),
    Rule("txt_mod.lin", "norm1_context.linear"),
    Rule("img_attn.qkv", ("attn.to_q", "attn.to_k", "attn.to_v")),
    Rule("txt_attn.qkv", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
    Rule("img_attn.norm.query_norm.scale", "attn.norm_q.weight"),
    Rule("img_attn.norm.key_norm.scale", "attn.norm_k.weight"),
    Rule("txt_attn.norm.query_norm.scale", "attn.norm_added_q.weight"),
    Rule("txt_attn.norm.key_norm.scale", "attn.norm_added_k.weight"),
    Rule("img_attn.proj", "attn.to_out.0"),
    Rule("txt_attn.proj", "attn.to_add_out"),
    Rule("img_mlp.0", "ff.net.0.proj"),
    Rule("img_mlp.2", "ff.net.2"),
    Rule("txt_mlp.0", "ff_context.net.0.proj"),
    Rule("txt_mlp.2", "ff_context.net.2"),
)
SINGLE = (  # below single_blocks.N and single_transformer_blocks.N
    Rule("modulation.lin", "norm.linear"),
    Rule("linear1", ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")),
    Rule("linear2", "proj_out"),
    Rule("norm.query_norm.scale", "attn.norm_q.weight"),
    Rule("norm.key_norm.scale", "attn.norm_k.weight"),
)


def flux_key_map(*, double_blocks: int, single_blocks: int) -> KeyMap:
    """The map between a BFL file and a `FluxTransformer2DModel` with these numbers of blocks."""
    doubles = (_below(DOUBLE, f"double_blocks.{i}", f"transformer_blocks.{i}") for i in range(double_blocks))
    singles = (
        _below(SINGLE, f"single_blocks.{i}", f"single_transformer_blocks.{i}") for i in range(single_blocks)
    )
    return KeyMap([*OUTER, *(rule for block in (*doubles, *singles) for rule in block)])


def _below(rules: Iterable[Rule], file: str, module: str) -> list[Rule]:
    return [
        Rule(f"{file}.{rule.file}", tuple(f"{module}.{p}" for p in rule.places), rule.form) for rule in rules
    ]


def flux_denoiser(checkpoint: Checkpoint) -> tuple[Checkpoint, KeyMap]:
    """The FLUX denoiser within a file and the map that reads it, whichever of the two layouts it has.

    Raises ModelError when there is none.
    """
    inner = without_prefix(checkpoint)
    if "img_in.weight" in inner and "vector_in.in_layer.weight" in inner:
        double, single = (count_blocks(inner, name) for name in ("double_blocks", "single_blocks"))
        return inner, flux_key_map(double_blocks=double, single_blocks=single)
    if "x_embedder.weight" in inner and "time_text_embed.text_embedder.linear_1.weight" in inner:
        return inner, KeyMap.same()
    raise ModelError(
        f"{checkpoint.name}: no FLUX denoiser in it: expected img_in.weight and vector_in (BFL layout), or "
        f"x_embedder.weight and time_text_embed (diffusers layout); it starts with {inner.keys()[:3]}."
    )


def without_prefix(checkpoint: Checkpoint) -> Checkpoint:
    """The tensors under `model.diffusion_model.` or `diffusion_model.` if there are any, else all."""
    for prefix in PREFIXES:
        if any(key.startswith(prefix) for key in checkpoint):
            return checkpoint.under(prefix)
    return checkpoint


def count_blocks(keys: Iterable[str], name: str) -> int:
    """1 + the highest N in `name.N.…`, N below 1000; 0 without any."""
    pattern = re.compile(rf"{re.escape(name)}\.(\d{{1,3}})\.")
    return 1 + max((int(match[1]) for key in keys if (match := pattern.match(key))), default=-1)


def flux_config(checkpoint: Checkpoint) -> dict[str, int | bool | list[int]]:
    """Arguments of `FluxTransformer2DModel` read off the shapes of a file in either layout.

    The rotary axes are not stored: heads of 128 have (16, 56, 56), others the same proportions in even sizes,
    which FLUX files of other widths must agree with or say otherwise in their config. Raises ModelError.
    """
    inner, key_map = flux_denoiser(checkpoint)
    bfl = "img_in.weight" in inner
    double, single = (
        ("double_blocks", "single_blocks") if bfl else ("transformer_blocks", "single_transformer_blocks")
    )

    def shape(module_name: str, count: int = 2) -> Shape:
        return inner.sizes(key_map.file_name(module_name), count)

    width, channels = shape("x_embedder.weight")
    norm = "single_transformer_blocks.0" if count_blocks(inner, single) else "transformer_blocks.0"
    (head,) = shape(f"{norm}.attn.norm_q.weight", 1)
    out_channels = shape("proj_out.weight")[0]
    if head < 1 or width % head:
        raise ModelError(f"{checkpoint.name}: its width {width} is not a multiple of its head size {head}.")
    guided = "guidance_in.in_layer.weight" if bfl else "time_text_embed.guidance_embedder.linear_1.weight"
    return {
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": out_channels,
        "num_layers": count_blocks(inner, double),
        "num_single_layers": count_blocks(inner, single),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shape("context_embedder.weight")[1],
        "pooled_projection_dim": shape("time_text_embed.text_embedder.linear_1.weight")[1],
        "guidance_embeds": guided in inner,
        "axes_dims_rope": rope_axes(head),
    }


def rope_axes(head: int) -> list[int]:
    """(16, 56, 56) for heads of 128; for others an eighth for the first axis, the rest halved, all even."""
    rest = (head - head // 8) // 2 // 2 * 2
    first = head - 2 * rest
    if first < 2 or first % 2 or rest < 2:
        raise ModelError(f"A head size of {head} cannot be divided over three rotary axes of even size.")
    return [first, rest, rest]
