from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from velatura.adapters.attach import put_on_fresh
from velatura.checkpoints.published import load_config
from velatura.families.unet import unet_blocks, unet_targets, zero_outputs

from .models import unet


def test_true_sd15_has_the_modules_of_sd_scripts() -> None:
    """Its 192 modules are 16 transformer blocks of 10 linear layers, and 32 1x1 convolutions, which we leave."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        model = UNet2DConditionModel(**load_config("sd15-unet"))
    targets = unet_targets(model)
    # time_emb_proj: one per residual block, 8 down, 2 in the middle, 12 up
    assert Counter(t.group for t in targets) == {"attention": 16 * 8, "mlp": 16 * 2, "embedders": 22 + 2}
    assert len({t.kohya for t in targets}) == len(targets)
    names = {t.kohya for t in targets}
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q" in names
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj" in names
    assert "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_out_0" in names
    assert {t.module for t in targets} == {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert {t.shares for t in targets} == {None}
    order = [t.module.split(".")[0] for t in targets]
    assert list(dict.fromkeys(order)) == ["time_embedding", "down_blocks", "mid_block", "up_blocks"]


def test_linear_projections_are_targets() -> None:
    targets = unet_targets(unet(use_linear_projection=True))
    assert [t.group for t in targets].count(
        "projection"
    ) == 2 * 4  # one transformer down, one in the middle, two up
    assert not any(t.group == "projection" for t in unet_targets(unet()))


def test_an_adapter_does_not_change_what_the_targets_are() -> None:
    model = unet()
    before = unet_targets(model)
    adapter = put_on_fresh(model, before, rank=2, alpha=2, seed=0)
    assert unet_targets(model) == before
    adapter.take_off()
    assert unet_targets(model) == before


def test_blocks_hold_all_but_the_ends() -> None:
    model = unet()
    blocks = unet_blocks(model)
    assert [type(block).__name__ for block in blocks] == [
        "CrossAttnDownBlock2D",
        "DownBlock2D",
        "UNetMidBlock2DCrossAttn",
        "UpBlock2D",
        "CrossAttnUpBlock2D",
    ]
    inside = {id(p) for block in blocks for p in block.parameters()}
    outside = {name.split(".")[0] for name, p in model.named_parameters() if id(p) not in inside}
    assert outside == {"conv_in", "time_embedding", "conv_norm_out", "conv_out"}


def test_from_scratch_it_gives_zero_and_every_branch_can_learn() -> None:
    model = unet().requires_grad_(True)
    zero_outputs(model)
    out = model(torch.randn(1, 4, 4, 4), torch.tensor([3.0]), torch.randn(1, 5, 64), return_dict=False)[0]
    assert not out.any()
    out.sum().backward()
    assert model.conv_out.weight.grad.abs().sum() > 0
