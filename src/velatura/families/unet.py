"""The UNet of Stable Diffusion: its blocks, the layers that an adapter may sit on, and how it starts from scratch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention as UNetAttention
from torch import Tensor, nn

from velatura.interfaces import Target
from velatura.placement.attention import Attention

# module suffix -> group; q, k and v share no down projection: files have one for each
_GROUPS: Mapping[str, str] = {
    "attn1.to_q": "attention",
    "attn1.to_k": "attention",
    "attn1.to_v": "attention",
    "attn1.to_out.0": "attention",
    "attn2.to_q": "attention",
    "attn2.to_k": "attention",
    "attn2.to_v": "attention",
    "attn2.to_out.0": "attention",
    "ff.net.0.proj": "mlp",
    "ff.net.2": "mlp",
    "proj_in": "projection",
    "proj_out": "projection",
    "time_emb_proj": "embedders",
    "time_embedding.linear_1": "embedders",
    "time_embedding.linear_2": "embedders",
}


def unet_blocks(unet: nn.Module) -> list[nn.Module]:
    """The stages in the order of execution: down, middle, up. Skips between them are arguments and results."""
    return [stage for _, stage in _stages(unet)]


def use_our_attention(unet: nn.Module) -> None:
    """Let the transformer blocks' attention be computed by each layer's `attend`."""
    for layer in unet_attentions(unet):
        layer.attend = Attention()
        layer.set_processor(_Attending())


def unet_attentions(unet: nn.Module) -> list[Any]:
    """The layers of attention of the transformer blocks; others normalise and add by themselves."""
    found = [module for module in unet.modules() if isinstance(module, UNetAttention)]
    return [layer for layer in found if layer.group_norm is None and not layer.residual_connection]


class _Attending:
    """What diffusers' `AttnProcessor2_0` does in the transformer blocks of a UNet, with `attend` in its midst."""

    def __call__(
        self,
        layer: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
    ) -> Tensor:
        """`[B, T, D]` image tokens, and the text's `[B, S, J]` where they are attended to -> `[B, T, D]`."""
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = layer.to_q(hidden_states).unflatten(-1, (layer.heads, -1))
        key, value = (project(read).unflatten(-1, (layer.heads, -1)) for project in (layer.to_k, layer.to_v))
        out: Tensor = layer.attend(query, key, value).flatten(2)
        for module in layer.to_out:
            out = module(out)
        return out


def unet_targets(unet: nn.Module) -> list[Target]:
    """The UNet's linear layers by group, in the order of execution. 1x1 convolutions (SD 1's projections) are none."""
    found = []
    for place, stage in (("time_embedding", unet.get_submodule("time_embedding")), *_stages(unet)):
        for name, module in stage.named_modules():
            path = f"{place}.{name}"
            group = next((group for suffix, group in _GROUPS.items() if path.endswith(f".{suffix}")), None)
            group = group or _GROUPS.get(path)
            if group is not None and getattr(getattr(module, "weight", None), "ndim", 0) == 2:
                found.append(Target(module=path, group=group, kohya="lora_unet_" + path.replace(".", "_")))
    return found


def zero_outputs(unet: UNet2DConditionModel) -> None:
    """Start as LDM does: every residual branch, and the UNet itself, gives zero (its `zero_module`)."""
    for name, module in unet.named_modules():
        if name.endswith((".conv2", ".proj_out")) or name == "conv_out":
            for parameter in module.parameters(recurse=False):
                nn.init.zeros_(parameter)


def _stages(unet: Any) -> Iterator[tuple[str, nn.Module]]:
    yield from ((f"down_blocks.{i}", block) for i, block in enumerate(unet.down_blocks))
    if unet.mid_block is not None:
        yield "mid_block", unet.mid_block
    yield from ((f"up_blocks.{i}", block) for i, block in enumerate(unet.up_blocks))
