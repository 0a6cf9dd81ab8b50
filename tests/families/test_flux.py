from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from velatura.errors import ModelError
from velatura.families.flux import FlowSchedule, FluxFamily, pack, unpack
from velatura.families.flux_blocks import use_our_blocks
from velatura.families.flux_targets import flux_targets
from velatura.interfaces import Conditioning, ModelInfo, Parts, Prompt, SamplingDefaults
from velatura.placement.recompute import recompute

from .models import clip, clip_tokenizer, flux, t5, t5_tokenizer

INFO = ModelInfo(
    family="flux",
    variant="dev",
    architecture="flux-1-dev",
    latent_channels=4,
    latent_scale=2,
    size_step=4,
    prediction="velocity",
    shifted=True,
    defaults=SamplingDefaults(size=24, steps=2),
    fingerprints={},
)


def test_pack_by_hand() -> None:
    """Two channels of 2 x 4: the left 2 x 2 patch holds 0 1 / 4 5 of the first and 8 9 / 12 13 of the second."""
    latents = torch.arange(16.0).view(1, 2, 2, 4)
    assert pack(latents)[0].tolist() == [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]]


def test_pack_and_unpack_equal_diffusers() -> None:
    latents = torch.randn(2, 4, 6, 10)
    packed = FluxPipeline._pack_latents(latents, 2, 4, 6, 10)
    assert torch.equal(pack(latents), packed)
    assert torch.equal(unpack(packed, (3, 5)), latents)
    assert torch.equal(unpack(packed, (3, 5)), FluxPipeline._unpack_latents(packed, 48, 80, 8))


# from the parity vectors of the sheet on sd-scripts: warp_mu at sigma .1 .25 .5 .75 .9
@pytest.mark.parametrize(
    ("tokens", "warped"),
    [
        (1024, (0.172612, 0.384945, 0.652489, 0.849235, 0.944129)),  # mu = 0.63
        (4096, (0.259758, 0.512844, 0.759511, 0.904531, 0.966014)),  # mu = 1.15
    ],
)
def test_shift_values(tokens: int, warped: tuple[float, ...]) -> None:
    found = FlowSchedule().shift(torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]), tokens)
    torch.testing.assert_close(found, torch.tensor(warped), atol=1e-6, rtol=0)


def test_shift_by_hand() -> None:
    """At 256 tokens mu = 1/2, and t = 1/2 moves to sqrt(e) / (sqrt(e) + 1)."""
    expected = math.sqrt(math.e) / (math.sqrt(math.e) + 1)
    assert float(FlowSchedule().shift(torch.tensor(0.5), 256)) == pytest.approx(expected, abs=1e-7)
    for count in range(1, 5000):
        assert FlowSchedule().shift(torch.tensor([0.0, 1.0]), count).tolist() == [0, 1]


@pytest.mark.parametrize("steps", [1, 4, 28])
@pytest.mark.parametrize("size", [(256, 256), (512, 768), (1024, 1024), (1536, 832)])
def test_times_equal_the_scheduler_with_dynamic_shift(steps: int, size: tuple[int, int]) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    tokens = size[0] * size[1] // 256
    mu = calculate_shift(tokens, 256, 4096, 0.5, 1.15)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    found = FlowSchedule().times(steps, tokens)
    assert len(found) == steps + 1
    torch.testing.assert_close(found, scheduler.sigmas, atol=2e-7, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_times_of_schnell(steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
    torch.testing.assert_close(FlowSchedule(shifted=False).times(steps, 4096), scheduler.sigmas)


def test_encode_equals_diffusers() -> None:
    parts = Parts(info=INFO, text_encoders=(clip(), t5()), tokenizers=(clip_tokenizer(), t5_tokenizer()))
    texts = ["a large red cube", ""]
    found = FluxFamily(text_length=20).encode(parts, [Prompt(text=text) for text in texts])
    pipe = FluxPipeline(
        scheduler=None,
        vae=None,
        transformer=None,
        text_encoder=parts.text_encoders[0],
        text_encoder_2=parts.text_encoders[1],
        tokenizer=parts.tokenizers[0],
        tokenizer_2=parts.tokenizers[1],
    )
    text, pooled, _ = pipe.encode_prompt(texts, texts, max_sequence_length=20)
    torch.testing.assert_close(found.tensors["text"], text, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.tensors["pooled"], pooled, atol=1e-6, rtol=0)
    assert found.tensors["text"].shape == (2, 20, 24)


def test_lengths_and_missing_parts() -> None:
    parts = Parts(info=INFO, tokenizers=(clip_tokenizer(), t5_tokenizer()))
    (clip_count, clip_most), (t5_count, t5_most) = FluxFamily(text_length=300).token_counts(parts, "a cube")
    assert clip_most == min(parts.tokenizers[0].model_max_length, 77)
    assert t5_most == 300
    assert (clip_count, t5_count) == (4, 3)  # two words each; CLIP marks both ends, T5 one
    with pytest.raises(ModelError, match="needs the text encoders, not loaded"):
        FluxFamily().encode(parts, [Prompt(text="a")])
    with pytest.raises(ModelError, match="tokenizers"):
        FluxFamily().token_counts(Parts(info=INFO), "a")


def test_targets_are_linear_layers_under_the_names_of_sd_scripts() -> None:
    model = flux(guidance=True)
    targets = flux_targets(model)
    linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {target.module for target in targets} == linears
    by_group: dict[str, set[str]] = {}
    for target in targets:
        by_group.setdefault(target.group, set()).add(target.kohya)
    inside = by_group["attention"] | by_group["mlp"] | by_group["modulation"]
    # 304 modules on 19 + 38 blocks: 10 in a double block, 3 in a single one
    assert len(inside) == 2 * 10 + 2 * 3
    assert "lora_unet_double_blocks_1_img_attn_qkv" in inside
    shared = [t.module for t in targets if t.shares == "lora_unet_single_blocks_0_linear1"]
    names = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    assert shared == [f"single_transformer_blocks.0.{name}" for name in names]


def test_recompute_gives_the_same_gradients() -> None:
    model = flux(guidance=True)
    use_our_blocks(model)
    model.transformer_blocks[0].ff.net[2].weight.requires_grad_()
    family = FluxFamily()
    parts = Parts(info=INFO, denoiser=model)
    conditioning = _conditioning()
    latents = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))

    def gradient() -> torch.Tensor:
        model.zero_grad()
        out = family.predict(parts, latents, torch.tensor([0.2, 0.7]), conditioning, guidance=2.0)
        out.square().sum().backward()
        return model.transformer_blocks[0].ff.net[2].weight.grad.clone()

    plain = gradient()
    recompute(family.blocks(model))
    assert torch.equal(gradient(), plain)
    assert plain.abs().max() > 0


def _conditioning() -> Conditioning:
    generator = torch.Generator().manual_seed(1)
    return Conditioning(
        tensors={
            "pooled": torch.randn(2, 64, generator=generator),
            "text": torch.randn(2, 5, 24, generator=generator),
        }
    )
