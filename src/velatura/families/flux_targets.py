"""The linear layers of FLUX.1 that an adapter may sit on: their groups, and their names in files."""

from __future__ import annotations

from torch import nn

from velatura.interfaces import Target

# module suffix -> (group, what it shares its input with, leaf of the kohya name, position and parts of the fused layer)
_DOUBLE = {
    "attn.to_q": ("attention", "img_attn_qkv", 0),
    "attn.to_k": ("attention", "img_attn_qkv", 1),
    "attn.to_v": ("attention", "img_attn_qkv", 2),
    "attn.add_q_proj": ("attention", "txt_attn_qkv", 0),
    "attn.add_k_proj": ("attention", "txt_attn_qkv", 1),
    "attn.add_v_proj": ("attention", "txt_attn_qkv", 2),
    "attn.to_out.0": ("attention", "img_attn_proj", None),
    "attn.to_add_out": ("attention", "txt_attn_proj", None),
    "ff.net.0.proj": ("mlp", "img_mlp_0", None),
    "ff.net.2": ("mlp", "img_mlp_2", None),
    "ff_context.net.0.proj": ("mlp", "txt_mlp_0", None),
    "ff_context.net.2": ("mlp", "txt_mlp_2", None),
    "norm1.linear": ("modulation", "img_mod_lin", None),
    "norm1_context.linear": ("modulation", "txt_mod_lin", None),
}
_SINGLE = {
    "attn.to_q": ("attention", "linear1", 0),
    "attn.to_k": ("attention", "linear1", 1),
    "attn.to_v": ("attention", "linear1", 2),
    "proj_mlp": ("mlp", "linear1", 3),
    "proj_out": ("mlp", "linear2", None),
    "norm.linear": ("modulation", "modulation_lin", None),
}
_EMBEDDERS = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in_in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in_out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in_in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in_out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in_in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in_out_layer",
    "norm_out.linear": "final_layer_adaLN_modulation_1",
    "proj_out": "final_layer_linear",
}


def flux_targets(denoiser: nn.Module) -> list[Target]:
    """Every linear layer of a `FluxTransformer2DModel` as an adapter target, in the order of execution."""
    modules = dict(denoiser.named_modules())
    found: list[Target] = []
    for blocks, kohya, table in (
        ("transformer_blocks", "double_blocks", _DOUBLE),
        ("single_transformer_blocks", "single_blocks", _SINGLE),
    ):
        for index in range(len(modules[blocks])):
            for suffix, (group, leaf, position) in table.items():
                fused = f"lora_unet_{kohya}_{index}_{leaf}"
                found.append(
                    Target(
                        module=f"{blocks}.{index}.{suffix}",
                        group=group,
                        shares=None if position is None else fused,
                        kohya=fused,
                    )
                )
    for module, leaf in _EMBEDDERS.items():
        if module in modules:
            found.append(Target(module=module, group="embedders", kohya=f"lora_unet_{leaf}"))
    return found
