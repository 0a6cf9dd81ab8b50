from __future__ import annotations

import pytest
import torch

from velatura.checkpoints.checkpoint import Checkpoint, TensorDict
from velatura.checkpoints.detect import contents, expect, identify
from velatura.checkpoints.flux_keys import flux_key_map
from velatura.checkpoints.vae_keys import vae_key_map
from velatura.errors import ModelError

from .conftest import tiny_flux, tiny_vae
from .test_sd1_keys import unet, unet_config


def meta(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def made(pending: dict[str, object]) -> dict[str, torch.Tensor]:
    return {key: item.make() for key, item in pending.items()}  # type: ignore[attr-defined]


def bfl(guidance: bool = True) -> dict[str, torch.Tensor]:
    state = tiny_flux(guidance=guidance).state_dict()
    return made(flux_key_map(double_blocks=2, single_blocks=3).to_file(state))


CLIP = meta(**{"text_model.embeddings.token_embedding.weight": (49408, 768)})
T5 = meta(**{"encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096), "shared.weight": (32128, 4096)})


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_flux(prefix: str) -> None:
    found = identify(TensorDict(prefixed(prefix, bfl())))
    assert (found.kind, found.layout) == ("flux-denoiser", "bfl")
    assert found.title == "a FLUX denoiser (2 + 3 blocks, 12 input channels, with guidance)"
    assert "without guidance" in identify(TensorDict(bfl(guidance=False))).title
    split = identify(TensorDict(tiny_flux().state_dict()))
    assert (split.kind, split.layout) == ("flux-denoiser", "diffusers")


def test_parts() -> None:
    vae = tiny_vae()
    ldm = made(vae_key_map(levels=3, layers=1).to_file(vae.state_dict()))
    assert identify(TensorDict(ldm)).layout == "ldm"
    assert identify(TensorDict(prefixed("vae.", ldm))).kind == "autoencoder"
    assert identify(TensorDict(vae.state_dict())).title == "an image autoencoder (3 latent channels)"
    assert identify(TensorDict(CLIP)).title == "a CLIP text encoder (CLIP-L)"
    assert identify(TensorDict(T5)).title == "a T5 encoder (T5-XXL)"
    state = unet(unet_config((True, False), 1)).state_dict()
    assert (identify(TensorDict(state)).kind, identify(TensorDict(state)).layout) == ("sd1-unet", "diffusers")


def test_merged_files_hold_several() -> None:
    vae = made(vae_key_map(levels=3, layers=1).to_file(tiny_vae().state_dict()))
    clip, t5 = (
        prefixed("text_encoders.clip_l.transformer.", CLIP),
        prefixed("text_encoders.t5xxl.transformer.", T5),
    )
    flux = TensorDict(prefixed("model.diffusion_model.", bfl()) | prefixed("vae.", vae) | clip | t5)
    assert [item.kind for item in contents(flux)] == [
        "flux-denoiser",
        "autoencoder",
        "clip-text-encoder",
        "t5-encoder",
    ]
    for kind in ("flux-denoiser", "autoencoder", "clip-text-encoder", "t5-encoder"):
        assert expect(flux, kind).kind == kind
    shapes = {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "first_stage_model.quant_conv.weight": (8,),
    }
    shapes["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"] = (320, 768)
    sd1 = TensorDict(
        meta(**shapes) | prefixed("first_stage_model.", vae) | prefixed("cond_stage_model.transformer.", CLIP)
    )
    assert [item.kind for item in contents(sd1)] == ["sd1-unet", "autoencoder", "clip-text-encoder"]
    shapes["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"] = (320, 1024)
    assert identify(TensorDict(meta(**shapes))).kind == "sd2-unet"
    shapes["model.diffusion_model.label_emb.0.0.weight"] = (1280, 2816)
    assert identify(TensorDict(meta(**shapes))).kind == "sdxl-unet"


def file(*keys: str) -> Checkpoint:
    return TensorDict(meta(**dict.fromkeys(keys, (1, 1))), name="some.safetensors")


@pytest.mark.parametrize(
    ("keys", "title"),
    [
        (
            ("double_blocks.0.img_attn.qkv.weight", "distilled_guidance_layer.in_proj.weight"),
            "a Chroma denoiser",
        ),
        (("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",), "an SD 3 denoiser"),
        (("transformer_blocks.0.img_mod.1.weight", "txt_norm.weight"), "a Qwen-Image denoiser"),
        (
            ("x_embedder.weight", "cap_embedder.0.weight", "layers.0.attention.qkv.weight"),
            "a Lumina Image 2.0 denoiser",
        ),
        (("double_blocks.0.img_attn_qkv.weight", "byt5_in.fc1.weight"), "a HunyuanImage denoiser"),
        (("double_stream_modulation_img.lin.weight", "img_in.weight"), "a FLUX.2 denoiser"),
        (("zero_convs.0.0.weight", "input_blocks.0.0.weight"), "a Stable Diffusion ControlNet"),
        (("conv_in.weight", "add_embedding.linear_1.weight"), "an SDXL UNet"),
        (("transformer.resblocks.0.attn.in_proj_weight",), "an OpenCLIP text encoder"),
        (("model.layers.0.self_attn.q_proj.weight",), "a language model"),
        (("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",), "a LoRA or another adapter"),
        (("transformer.x.lora_A.default.weight",), "a LoRA or another adapter"),
        (("lora_unet_x.hada_w1_a",), "a LoRA or another adapter"),
        (("foo", "bar"), "nothing known (it has foo, bar, …)"),
    ],
)
def test_other_files_are_refused_by_name(keys: tuple[str, ...], title: str) -> None:
    with pytest.raises(ModelError) as caught:
        expect(file(*keys), "flux-denoiser")
    assert str(caught.value) == f"some.safetensors: this looks like {title}; a FLUX denoiser was wanted."


def test_wanted_list_and_quantised_files() -> None:
    with pytest.raises(
        ModelError, match=r"with a T5 encoder.*; a FLUX denoiser or an SD 1.x UNet was wanted"
    ):
        expect(TensorDict(CLIP | T5), ["flux-denoiser", "sd1-unet"])
    quantised = TensorDict(bfl() | {"img_in.weight.absmax": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"a FLUX denoiser \(2 \+ 3 .*, quantised by a tool"):
        expect(quantised, "flux-denoiser")
    damaged = {key: tensor for key, tensor in bfl().items() if "txt_in" not in key}
    with pytest.raises(ModelError, match=r"a damaged FLUX denoiser \(.*no tensor 'txt_in.weight'"):
        expect(TensorDict(damaged), "flux-denoiser")
