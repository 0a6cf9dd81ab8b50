from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from velatura.checkpoints.checkpoint import TensorDict
from velatura.checkpoints.loading import load_into, skeleton
from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.published import config_names, load_config
from velatura.checkpoints.text_keys import (
    CLIP_IGNORED,
    T5_IGNORED,
    clip_config,
    clip_text_encoder,
    t5_config,
    t5_encoder,
)
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import ModelError

from .conftest import md5_of_names_and_shapes, shapes_of

SMALL_CLIP = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL_T5 = {"d_model": 24, "d_kv": 5, "d_ff": 40, "num_layers": 2, "num_heads": 3, "vocab_size": 70}


def clip(**changes: Any) -> CLIPTextModel:
    torch.manual_seed(0)
    return CLIPTextModel(
        CLIPTextConfig(**{**load_config("clip-l-text-encoder"), **SMALL_CLIP, **changes})
    ).eval()


def t5() -> T5EncoderModel:
    torch.manual_seed(0)
    return T5EncoderModel(T5Config(**{**load_config("t5-xxl-encoder"), **SMALL_T5})).eval()


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "text_model.",
        "cond_stage_model.transformer.text_model.",
        "text_encoders.clip_l.transformer.text_model.",
        "clip_l.text_model.",
        "text_encoder.",
    ],
)
@torch.no_grad()
def test_clip_with_any_prefix(prefix: str) -> None:
    model = clip()
    outer = prefix.removesuffix("text_model.")
    plain = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    file = {prefix + name: tensor for name, tensor in plain.items()}
    file |= {
        f"{prefix}embeddings.position_ids": torch.arange(77)[None],
        f"{outer}logit_scale": torch.ones(()),
    }
    file |= {f"{outer}text_projection.weight": torch.ones(4, 4), f"{outer}vision_model.x": torch.ones(1)}
    again = skeleton(lambda: CLIPTextModel(model.config))
    inner, key_map = clip_text_encoder(TensorDict(file), shapes_of(again))
    load_into(again, inner, key_map, dtype=None, what="CLIP", ignore=CLIP_IGNORED)
    ids = torch.randint(0, 49000, (2, 77))
    assert torch.equal(again.eval()(ids).pooler_output, model(ids).pooler_output)
    read = clip_config(TensorDict(file))
    assert read == {"vocab_size": 49408, "max_position_embeddings": 77, **SMALL_CLIP}


@pytest.mark.parametrize("embedding", ["shared.weight", "encoder.embed_tokens.weight", "both"])
@pytest.mark.parametrize("prefix", ["", "text_encoders.t5xxl.transformer.", "t5xxl."])
@torch.no_grad()
def test_t5_ties_its_embedding(tmp_path: Path, embedding: str, prefix: str) -> None:
    model = t5()
    names = ("shared.weight", "encoder.embed_tokens.weight")
    file = {k: v for k, v in model.state_dict().items() if k not in names or embedding in ("both", k)}
    file = {prefix + key: tensor for key, tensor in file.items()} | {f"{prefix}logit_scale": torch.ones(1)}
    write_safetensors(tmp_path / "x.safetensors", file)
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert t5_config(checkpoint) == SMALL_T5 | {"relative_attention_num_buckets": 32}
    again = skeleton(lambda: T5EncoderModel(model.config))
    inner, key_map = t5_encoder(checkpoint)
    load_into(again, inner, key_map, dtype=None, what="T5", ignore=T5_IGNORED)
    assert again.shared.weight is again.encoder.embed_tokens.weight
    ids = torch.randint(0, 70, (2, 9))
    assert torch.equal(again.eval()(ids)[0], model(ids)[0])


@torch.no_grad()
def test_scaled_fp8_t5(tmp_path: Path) -> None:
    """As ComfyUI's t5xxl_fp8_e4m3fn_scaled: linear layers in fp8 with a scale each, the rest in fp16."""
    model = t5()
    file: dict[str, torch.Tensor] = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}
    for name, tensor in model.state_dict().items():
        if name == "encoder.embed_tokens.weight":
            continue
        if tensor.dim() == 2 and ".block." in name and "relative" not in name:
            scale = tensor.abs().max() / 448
            file[name] = (tensor / scale).to(torch.float8_e4m3fn)
            file[name.replace(".weight", ".scale_weight")] = scale
            file[name.replace(".weight", ".scale_input")] = torch.ones(())
            tensor.copy_(file[name].float() * scale)  # what the file stands for
        else:
            file[name] = tensor
    write_safetensors(tmp_path / "x.safetensors", file)
    again = skeleton(lambda: T5EncoderModel(model.config))
    inner, key_map = t5_encoder(open_checkpoint(tmp_path / "x.safetensors"))
    load_into(again, inner, key_map, dtype=torch.float32, what="T5", ignore=T5_IGNORED)
    ids = torch.randint(0, 70, (2, 9))
    assert torch.equal(again.eval()(ids)[0], model(ids)[0])


def test_refusals() -> None:
    with pytest.raises(ModelError, match="no CLIP text encoder in it"):
        clip_text_encoder(TensorDict({"a": torch.zeros(1)}), ())
    with pytest.raises(ModelError, match="no T5 encoder in it"):
        t5_encoder(TensorDict({"a": torch.zeros(1)}))
    anchor = "embeddings.token_embedding.weight"
    two = TensorDict({f"{name}.text_model.{anchor}": torch.zeros(1) for name in ("a", "b")})
    with pytest.raises(ModelError, match=r"several CLIP text encoders in it \(a\., b\.\)"):
        clip_text_encoder(two, ())


def test_published_sizes() -> None:
    """CLIP-L 123.060 M; T5-XXL's encoder 4.762 B, computed from the architecture."""
    with torch.device("meta"):
        clip_l = CLIPTextModel(CLIPTextConfig(**load_config("clip-l-text-encoder")))
        xxl = T5EncoderModel(T5Config(**load_config("t5-xxl-encoder")))
    d, ff = 768, 3072
    per_layer = 4 * (d * d + d) + (d * ff + ff) + (ff * d + d) + 4 * d
    assert (
        sum(p.numel() for p in clip_l.parameters())
        == 49408 * d + 77 * d + 12 * per_layer + 2 * d
        == 123_060_480
    )
    d, ff = 4096, 10240
    per_layer = 4 * d * d + 3 * d * ff + 2 * d
    assert (
        sum(p.numel() for p in xxl.parameters()) == 32128 * d + 24 * per_layer + 32 * 64 + d == 4_762_310_656
    )
    assert xxl.config.dense_act_fn == "gelu_new"
    assert xxl.config.is_gated_act
    clip_file = {
        f"text_model.{name.removeprefix('text_model.')}": shape for name, shape in shapes_of(clip_l).items()
    }
    t5_file = {name: shape for name, shape in shapes_of(xxl).items() if name != "encoder.embed_tokens.weight"}
    assert md5_of_names_and_shapes(clip_file).startswith("94eefa3d")  # of the published files
    assert md5_of_names_and_shapes(t5_file).startswith("22540b49")


def test_clip_l_uses_quick_gelu() -> None:
    model = clip()
    x = torch.linspace(-3, 3, 13)
    root = getattr(model, "text_model", model)
    torch.testing.assert_close(root.encoder.layers[0].mlp.activation_fn(x), x * torch.sigmoid(1.702 * x))


@torch.no_grad()
def test_clip_pools_at_the_first_end_of_text() -> None:
    """The hub's config says eos 2 and pools at the highest id; ours names the token. Same place for real prompts."""
    ids = torch.tensor([[49406, 320, 1929, 49407, 49407, 49407], [49406, 5, 6, 7, 8, 49407]])
    ours, hub = clip(), clip(eos_token_id=2)
    assert torch.equal(ours(ids).pooler_output, hub(ids).pooler_output)
    assert torch.equal(
        ours(ids).pooler_output, ours(ids).last_hidden_state[torch.arange(2), torch.tensor([3, 5])]
    )
    added = clip(vocab_size=49410)
    ids[1, 2] = 49409  # a textual inversion token: higher than the end token
    states = added(ids)
    assert torch.equal(states.pooler_output, states.last_hidden_state[torch.arange(2), torch.tensor([3, 5])])


def test_configs() -> None:
    assert len(config_names()) == 9
    config = load_config("sd15-scheduler")
    abar = PNDMScheduler.from_config(config).alphas_cumprod
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(abar.double(), (1 - betas).cumprod(0), rtol=1e-5, atol=1e-7)
    assert DDIMScheduler.from_config(config).config.clip_sample is False
    with pytest.raises(ModelError, match=r"No config 'flux-vea'; .* Did you mean 'flux-vae'\?"):
        load_config("flux-vea")
