"""Files of every format, made by hand, read to the same updates; conversions change no update."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from velatura.checkpoints.checkpoint import TensorDict
from velatura.checkpoints.lora_file import convert, lora_tensors, read_lora, write_lora
from velatura.checkpoints.lora_layer import LoraFile, LoraLayer
from velatura.checkpoints.lora_layout import with_layout
from velatura.errors import ModelError

D = 6  # width of the pretended FLUX; its MLP is 4 D = 24
Tensors = dict[str, torch.Tensor]
OUT = {"img_attn_qkv": 3 * D, "txt_attn_qkv": 3 * D, "linear1": 7 * D, "img_mod_lin": 6 * D}


def pair(
    rank: int, width: int, out: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator)
    return down.to(dtype), up.to(dtype)


def kohya_file(*, rank: int = 2, alpha: float | None = 1.0, dtype: torch.dtype = torch.float32) -> Tensors:
    """Four fused layers, one plain one and one of each text encoder, in sd-scripts' names."""
    sizes = {
        "lora_unet_double_blocks_0_img_attn_qkv": (D, 3 * D),
        "lora_unet_double_blocks_1_txt_attn_qkv": (D, 3 * D),
        "lora_unet_double_blocks_1_txt_mlp_2": (4 * D, D),
        "lora_unet_single_blocks_2_linear1": (D, 7 * D),
        "lora_unet_final_layer_adaLN_modulation_1": (D, 2 * D),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (5, 5),
        "lora_te3_encoder_block_3_layer_1_DenseReluDense_wi_0": (4, 9),
    }
    tensors: Tensors = {}
    for seed, (name, (width, out)) in enumerate(sizes.items()):
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = pair(
            rank, width, out, seed, dtype
        )
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def fused_delta(tensors: Tensors, name: str) -> torch.Tensor:
    down, up = tensors[f"{name}.lora_down.weight"].float(), tensors[f"{name}.lora_up.weight"].float()
    alpha = float(tensors.get(f"{name}.alpha", torch.tensor(float(down.shape[0]))))
    return up @ down * (alpha / down.shape[0])


def split_deltas(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The updates of the diffusers modules, sliced by hand out of the fused ones."""
    img = fused_delta(tensors, "lora_unet_double_blocks_0_img_attn_qkv")
    txt = fused_delta(tensors, "lora_unet_double_blocks_1_txt_attn_qkv")
    linear1 = fused_delta(tensors, "lora_unet_single_blocks_2_linear1")
    final = fused_delta(tensors, "lora_unet_final_layer_adaLN_modulation_1")
    at, single = "transformer_blocks", "single_transformer_blocks.2"
    return {
        f"{at}.0.attn.to_q": img[:D],
        f"{at}.0.attn.to_k": img[D : 2 * D],
        f"{at}.0.attn.to_v": img[2 * D :],
        f"{at}.1.attn.add_q_proj": txt[:D],
        f"{at}.1.attn.add_k_proj": txt[D : 2 * D],
        f"{at}.1.attn.add_v_proj": txt[2 * D :],
        f"{at}.1.ff_context.net.2": fused_delta(tensors, "lora_unet_double_blocks_1_txt_mlp_2"),
        f"{single}.attn.to_q": linear1[:D],
        f"{single}.attn.to_k": linear1[D : 2 * D],
        f"{single}.attn.to_v": linear1[2 * D : 3 * D],
        f"{single}.proj_mlp": linear1[3 * D :],
        "norm_out.linear": torch.cat([final[D:], final[:D]]),
    }


def deltas(lora: LoraFile) -> dict[str, torch.Tensor]:
    return {module: layer.delta() for module, layer in lora.of("denoiser").items()}


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], rtol: float = 1e-6) -> None:
    assert sorted(found) == sorted(wanted)
    for name, delta in wanted.items():
        torch.testing.assert_close(
            found[name], delta, rtol=rtol, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_kohya_is_read_and_split_like_by_hand() -> None:
    tensors = kohya_file(alpha=3.0)
    lora = read_lora(TensorDict(tensors))
    assert (lora.layout, lora.format, lora.ranks) == ("bfl", "kohya", (2,))
    assert all(layer.alpha == 3.0 for layer in lora.layers)
    assert list(lora.of("clip_l")) == ["text_model.encoder.layers.0.self_attn.q_proj"]
    assert list(lora.of("t5")) == ["encoder.block.3.layer.1.DenseReluDense.wi_0"]
    split = with_layout(lora, "diffusers")
    assert_close(deltas(split), split_deltas(tensors))
    shared = [split.of("denoiser")[f"transformer_blocks.0.attn.to_{n}"].down for n in "qkv"]
    assert shared[0] is shared[1] is shared[2]
    assert split.of("clip_l") == lora.of("clip_l")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [2.0, 1.0, 0.25, 3.0, 0.7, None])
def test_kohya_to_diffusers_and_back(tmp_path: Path, dtype: torch.dtype, alpha: float | None) -> None:
    tensors = kohya_file(alpha=alpha, dtype=dtype)
    save_file(tensors, tmp_path / "a.safetensors", metadata={"ss_network_dim": "2", "other": "x"})
    write_lora(tmp_path / "b.safetensors", read_lora(tmp_path / "a.safetensors"), "diffusers")
    middle = load_file(tmp_path / "b.safetensors")
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in middle)
    assert_close(  # what a reader sees that knows no alpha and no note of ours
        {
            key.removeprefix("transformer.").removesuffix(".lora_A.weight"): middle[
                key.replace("_A.", "_B.")
            ].float()
            @ value.float()
            for key, value in middle.items()
            if key.startswith("transformer.") and "lora_A" in key
        },
        split_deltas(tensors),
    )
    exact = alpha in (None, 2.0, 1.0, 0.25)
    assert {value.dtype for key, value in middle.items() if "lora_B" in key} == {
        dtype if exact else torch.float32
    }

    write_lora(tmp_path / "c.safetensors", read_lora(tmp_path / "b.safetensors"), "kohya")
    again = load_file(tmp_path / "c.safetensors")
    wanted = {k: v for k, v in tensors.items() if not k.endswith(".alpha")}
    assert sorted(k for k in again if not k.endswith(".alpha")) == sorted(wanted)
    for key, tensor in wanted.items():
        assert again[key].dtype == dtype
        assert torch.equal(again[key], tensor), key
    alphas = {float(value) for key, value in again.items() if key.endswith(".alpha")}
    assert alphas == {float(torch.tensor(2.0 if alpha is None else alpha))}
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["other"] == "x"
    assert set(metadata) == {"ss_network_dim", "other", "sshs_model_hash", "sshs_legacy_hash"}


def diffusers_file(
    *parts: str, ranks: tuple[int, ...], block: str = "single_transformer_blocks.0"
) -> Tensors:
    tensors: Tensors = {}
    for seed, (part, rank) in enumerate(zip(parts, ranks, strict=True)):
        down, up = pair(rank, D, 4 * D if part == "proj_mlp" else D, seed)
        tensors[f"transformer.{block}.{part}.lora_A.weight"] = down
        tensors[f"transformer.{block}.{part}.lora_B.weight"] = up
    return tensors


QKVM = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")


@pytest.mark.parametrize(
    ("parts", "ranks"),
    [
        (QKVM, (2, 2, 2, 2)),
        (QKVM, (1, 2, 3, 4)),
        (("attn.to_q", "attn.to_v"), (2, 2)),
        (("attn.to_k", "proj_mlp"), (3, 1)),
        (("attn.to_v",), (2,)),
    ],
)
def test_separate_parts_become_a_block_diagonal_and_back(
    parts: tuple[str, ...], ranks: tuple[int, ...]
) -> None:
    tensors = diffusers_file(*parts, ranks=ranks)
    lora = read_lora(TensorDict(tensors))
    fused = convert(lora, "kohya")
    (layer,) = fused.layers
    assert layer.module == "single_blocks.0.linear1"
    assert layer.rank == layer.alpha == sum(ranks)
    rows = {
        "attn.to_q": (0, D),
        "attn.to_k": (D, 2 * D),
        "attn.to_v": (2 * D, 3 * D),
        "proj_mlp": (3 * D, 7 * D),
    }
    wanted = torch.zeros(7 * D, D)
    for name, split in lora.of("denoiser").items():
        start, stop = rows[name.removeprefix("single_transformer_blocks.0.")]
        wanted[start:stop] = split.delta()
    torch.testing.assert_close(layer.delta(), wanted)
    back, note = lora_tensors(convert(fused, "diffusers"), "diffusers")
    assert note == ""
    assert sorted(back) == sorted(tensors)
    assert all(torch.equal(back[key], tensor) for key, tensor in tensors.items())


def test_fusing_layers_of_unequal_scale_keeps_each_update() -> None:
    tensors = diffusers_file(*QKVM, ranks=(2, 2, 1, 4))
    lora = read_lora(TensorDict(tensors))
    scaled = [
        replace(layer, alpha=alpha) for layer, alpha in zip(lora.layers, (1.0, 2.0, 0.3, 5.0), strict=True)
    ]
    uneven = replace(lora, layers=tuple(scaled))
    assert_close(deltas(convert(convert(uneven, "kohya"), "diffusers")), deltas(uneven))


def test_sheet_example_shared_qkv_of_rank_4() -> None:
    """sd-scripts turns this into rank 12 with alpha 12; the shared down projection lets us go back to 4 with 1."""
    down, up = pair(4, D, 3 * D, 0)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(1.0),
    }
    split = convert(read_lora(TensorDict(tensors)), "diffusers")
    assert [layer.rank for layer in split.layers] == [4, 4, 4]
    copies = tuple(replace(layer, down=layer.down.clone()) for layer in split.layers)  # as read from a file
    (fused,) = convert(replace(split, layers=copies), "kohya").layers
    assert (fused.rank, fused.alpha) == (4, 1.0)
    assert torch.equal(fused.down, down)
    assert torch.equal(fused.up, up)
    stacked = torch.block_diag(*up.split(D))
    sparse = {
        f"{name}.lora_down.weight": torch.cat([down, down + 1, down + 2]),
        f"{name}.lora_up.weight": stacked,
    }
    parts = convert(read_lora(TensorDict(sparse)), "diffusers").layers
    assert [layer.rank for layer in parts] == [4, 4, 4]
    assert all(torch.equal(part.down, down + i) for i, part in enumerate(parts))


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any),
    alphas=st.lists(st.sampled_from([1.0, 2.0, 0.3]), min_size=4, max_size=4),
    share=st.booleans(),
)
def test_fuse_then_split_keeps_every_update(ranks: list[int], alphas: list[float], share: bool) -> None:
    layers = []
    for index, (part, rank, alpha) in enumerate(zip(QKVM, ranks, alphas, strict=True)):
        if rank:
            rank, alpha = (2, 1.0) if share else (rank, alpha)
            down, up = pair(rank, D, 4 * D if part == "proj_mlp" else D, index)
            down = pair(rank, D, D, 99)[0] if share else down
            module = f"single_transformer_blocks.7.{part}"
            layers.append(LoraLayer(part="denoiser", module=module, down=down, up=up, alpha=alpha))
    lora = LoraFile(layers=tuple(layers), layout="diffusers", format="diffusers")
    fused = with_layout(lora, "bfl")
    assert len(fused.layers) == 1
    assert not share or fused.layers[0].rank == 2
    assert_close(deltas(with_layout(fused, "diffusers")), deltas(lora), rtol=1e-5)


def test_untrained_adapter_keeps_all_its_parts() -> None:
    name = "lora_unet_single_blocks_0_linear1"
    tensors = {
        f"{name}.lora_down.weight": pair(4, D, 1, 0)[0],
        f"{name}.lora_up.weight": torch.zeros(7 * D, 4),
    }
    lora = read_lora(TensorDict(tensors))
    split = convert(lora, "diffusers")
    assert len(split.layers) == 4
    (back,) = convert(split, "kohya").layers
    assert torch.equal(back.down, lora.layers[0].down)
    assert torch.equal(back.up, lora.layers[0].up)


BFL_NAMES = {  # kohya stem -> (dotted BFL, DiffSynth)
    "lora_unet_double_blocks_0_img_attn_qkv": ("double_blocks.0.img_attn.qkv", "blocks.0.attn.a_to_qkv"),
    "lora_unet_double_blocks_1_txt_attn_qkv": ("double_blocks.1.txt_attn.qkv", "blocks.1.attn.b_to_qkv"),
    "lora_unet_double_blocks_1_txt_mlp_2": ("double_blocks.1.txt_mlp.2", "blocks.1.ff_b.2"),
    "lora_unet_single_blocks_2_linear1": ("single_blocks.2.linear1", "single_blocks.2.to_qkv_mlp"),
    "lora_unet_final_layer_adaLN_modulation_1": ("final_layer.adaLN_modulation.1", None),
}


@pytest.mark.parametrize("endings", [("lora_down", "lora_up"), ("lora_A", "lora_B")])
def test_comfy_names(endings: tuple[str, str]) -> None:
    kohya = kohya_file()
    tensors: Tensors = {}
    prefixes = {
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": "text_encoders.clip_l.transformer.text_model.encoder."
        "layers.0.self_attn.q_proj",
        "lora_te3_encoder_block_3_layer_1_DenseReluDense_wi_0": "text_encoders.t5xxl.transformer.encoder.block.3.layer."
        "1.DenseReluDense.wi_0",
    } | {stem: f"diffusion_model.{names[0]}" for stem, names in BFL_NAMES.items()}
    for stem, name in prefixes.items():
        tensors[f"{name}.{endings[0]}.weight"] = kohya[f"{stem}.lora_down.weight"]
        tensors[f"{name}.{endings[1]}.weight"] = kohya[f"{stem}.lora_up.weight"]
        tensors[f"{name}.alpha"] = kohya[f"{stem}.alpha"]
    lora = read_lora(TensorDict(tensors))
    assert (lora.format, lora.layout) == ("comfy", "bfl")
    assert lora_tensors(lora, "kohya")[0].keys() == kohya.keys()
    if endings[0] == "lora_down":
        assert lora_tensors(convert(lora, "comfy"), "comfy")[0].keys() == tensors.keys()
    assert_close(deltas(with_layout(lora, "diffusers")), split_deltas(kohya))


@pytest.mark.parametrize("prefix", ["", "pipe.dit."])
@pytest.mark.parametrize("adapter", ["", ".default"])
def test_diffsynth_names(prefix: str, adapter: str) -> None:
    kohya = kohya_file(alpha=None)
    tensors: Tensors = {}
    for stem, (_, name) in BFL_NAMES.items():
        if name is not None:
            tensors[f"{prefix}{name}.lora_A{adapter}.weight"] = kohya[f"{stem}.lora_down.weight"]
            tensors[f"{prefix}{name}.lora_B{adapter}.weight"] = kohya[f"{stem}.lora_up.weight"]
    lora = read_lora(TensorDict(tensors))
    assert (lora.format, lora.layout) == ("diffsynth", "bfl")
    wanted = split_deltas(kohya)
    del wanted["norm_out.linear"]
    assert_close(deltas(with_layout(lora, "diffusers")), wanted)


@pytest.mark.parametrize(
    ("prefix", "adapter", "kind"),
    [
        ("transformer.", "", "diffusers"),
        ("transformer.", ".default", "diffusers"),
        ("base_model.model.", "", "peft"),
        ("base_model.model.", ".default_0", "peft"),
        ("base_model.model.transformer.", ".default", "peft"),
        ("", "", "peft"),
    ],
)
def test_split_names(prefix: str, adapter: str, kind: str) -> None:
    split = convert(read_lora(TensorDict(kohya_file(alpha=2.0))), "diffusers")
    tensors: Tensors = {}
    for module, layer in split.of("denoiser").items():
        tensors[f"{prefix}{module}.lora_A{adapter}.weight"] = layer.down
        tensors[f"{prefix}{module}.lora_B{adapter}.weight"] = layer.up
    lora = read_lora(TensorDict(tensors))
    assert (lora.format, lora.layout) == (kind, "diffusers")
    assert_close(deltas(lora), split_deltas(kohya_file(alpha=2.0)))


def test_onetrainer_names() -> None:
    split = convert(read_lora(TensorDict(kohya_file(alpha=1.0))), "diffusers")
    tensors: Tensors = {}
    for module, layer in split.of("denoiser").items():
        stem = f"lora_transformer_{module.replace('.', '_')}"
        tensors |= {f"{stem}.lora_down.weight": layer.down, f"{stem}.lora_up.weight": layer.up}
        tensors[f"{stem}.alpha"] = torch.tensor(layer.alpha)
    lora = read_lora(TensorDict(tensors))
    assert (lora.format, lora.layout) == ("onetrainer", "diffusers")
    assert_close(deltas(lora), split_deltas(kohya_file(alpha=1.0)))


SD_NAMES = {  # kohya -> diffusers, diffusers before 0.22
    "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q": (
        "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q",
        "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.processor.to_q_lora",
    ),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0": (
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora",
    ),
    "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj": (
        "unet.up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj",
        "unet.up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.lora",
    ),
    "lora_te_text_model_encoder_layers_11_self_attn_out_proj": (
        "text_encoder.text_model.encoder.layers.11.self_attn.out_proj",
        "text_encoder.text_model.encoder.layers.11.self_attn.to_out_lora",
    ),
    "lora_te_text_model_encoder_layers_3_mlp_fc1": (
        "text_encoder.text_model.encoder.layers.3.mlp.fc1",
        "text_encoder.text_model.encoder.layers.3.mlp.fc1.lora_linear_layer",
    ),
}


def test_stable_diffusion_names() -> None:
    kohya: Tensors = {}
    new: Tensors = {}
    old: Tensors = {}
    for seed, (stem, (now, before)) in enumerate(SD_NAMES.items()):
        down, up = pair(3, 5, 7, seed)
        kohya |= {
            f"{stem}.lora_down.weight": down,
            f"{stem}.lora_up.weight": up,
            f"{stem}.alpha": torch.tensor(3.0),
        }
        new |= {f"{now}.lora_A.weight": down, f"{now}.lora_B.weight": up}
        old |= {f"{before}.down.weight": down, f"{before}.up.weight": up}
    read = [read_lora(TensorDict(tensors)) for tensors in (kohya, new, old)]
    assert [lora.format for lora in read] == ["kohya", "diffusers", "diffusers"]
    assert all(lora.layout == "unet" for lora in read)
    for lora in read:
        written = lora_tensors(convert(lora, "kohya"), "kohya")[0]
        assert written.keys() == kohya.keys()
        assert all(torch.equal(written[key], tensor) for key, tensor in kohya.items())
        back, note = lora_tensors(convert(lora, "diffusers"), "diffusers")
        assert (back.keys(), note) == (new.keys(), "")
    with pytest.raises(ModelError, match="it loads kohya files"):
        convert(read[0], "comfy")


def test_convolution_layers() -> None:
    stem = "lora_unet_down_blocks_0_resnets_0_conv1"
    down, up = torch.randn(2, 3, 3, 3), torch.randn(5, 2, 1, 1)
    lora = read_lora(TensorDict({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}))
    (layer,) = lora.layers
    assert layer.module == "down_blocks.0.resnets.0.conv1"
    image = torch.randn(1, 3, 8, 8)
    conv = torch.nn.functional.conv2d
    torch.testing.assert_close(conv(image, layer.delta()), conv(conv(image, down), up), rtol=1e-4, atol=1e-4)
    assert lora_tensors(convert(lora, "diffusers"), "diffusers")[0].keys() == {
        "unet.down_blocks.0.resnets.0.conv1.lora_A.weight",
        "unet.down_blocks.0.resnets.0.conv1.lora_B.weight",
    }


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv.dora_scale", "this is a DoRA"),
        ("lora_unet_double_blocks_0_img_attn_qkv.hada_w1_a", "this is a LoHa"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lokr_w1", "this is a LoKr"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_mid.weight", "this is a LoCon with a Tucker core"),
        (
            "transformer.transformer_blocks.0.attn.to_q.lora_B.bias",
            "an adapter that changes norms or biases too",
        ),
        ("double_blocks.0.processor.qkv_lora1.down.weight", "this is an XLabs LoRA"),
        ("lora_unet_double_blocks_0_img_attn_qkv.weight", "is not a key of a LoRA file"),
        ("lora_unet_input_blocks_1_1_proj_in.lora_down.weight", "names no layer of FLUX or SD 1.x"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "is no layer of FLUX or SD 1.x"),
        ("lora_unet_layers_0_attention_qkv.lora_down.weight", "names no layer of FLUX or SD 1.x"),
        ("transformer.nonsense.lora_A.weight", "'nonsense' is no layer of FLUX or SD 1.x"),
    ],
)
def test_what_is_not_understood_is_named(key: str, says: str) -> None:
    tensors = kohya_file() | {key: torch.zeros(2, D)}
    with pytest.raises(ModelError, match=says):
        read_lora(TensorDict(tensors, name="file"))


@pytest.mark.parametrize(
    ("keys", "looks"),
    [
        (
            {"text_model.embeddings.token_embedding.weight": (49408, 768)},
            r"a CLIP text encoder \(CLIP-L\)",
        ),
        ({"emb_params": (2, 768)}, "a textual inversion"),
        (
            {"img_in.weight": (8, 4), "vector_in.in_layer.weight": (8, 8), "x.query_norm.scale": (4,)},
            "a damaged FLUX denoiser .*",
        ),
        ({"a.weight": (2, 2), "b.weight": (2, 2)}, r"nothing known \(it has a.weight, b.weight, …\)"),
    ],
)
def test_a_file_that_is_no_lora_is_named_for_what_it_looks_like(
    keys: dict[str, tuple[int, ...]], looks: str
) -> None:
    tensors = {key: torch.zeros(shape) for key, shape in keys.items()}
    with pytest.raises(ModelError, match=f"^file: this looks like {looks}; a LoRA was wanted"):
        read_lora(TensorDict(tensors, name="file"))


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv.oft_blocks", "this is an OFT adapter"),
        ("double_blocks.0.processor.qkv_lora1.down.weight", "this is an XLabs LoRA"),
    ],
)
def test_other_adapters_alone_in_a_file_are_refused_by_name(key: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        read_lora(TensorDict({key: torch.zeros(2, D)}, name="file"))


def test_a_fused_layer_that_was_never_trained_is_read() -> None:
    """Its parts share the down projection, whatever the rank."""
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    down = torch.ones(2, D)
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": torch.zeros(3 * D, 2)}
    parts = convert(read_lora(TensorDict(tensors)), "diffusers").layers
    assert [(layer.module[-4:], layer.rank) for layer in parts] == [("to_q", 2), ("to_k", 2), ("to_v", 2)]
    assert all(torch.equal(layer.down, down) and not layer.up.any() for layer in parts)


def test_other_refusals() -> None:
    qkv = "lora_unet_double_blocks_0_img_attn_qkv"
    down, up = pair(2, D, 3 * D, 0)
    full = {f"{qkv}.lora_down.weight": down, f"{qkv}.lora_up.weight": up}
    for missing, half in (("lora_down", "down"), ("lora_up", "up")):
        kept = {key: tensor for key, tensor in full.items() if missing not in key}
        with pytest.raises(ModelError, match=f"the {half} half of its layer is not"):
            read_lora(TensorDict(kept))
    with pytest.raises(ModelError, match="holds no tensor"):
        read_lora(TensorDict({}))
    with pytest.raises(ModelError, match=r"down \(3, 6\) and up \(18, 2\) do not fit together"):
        read_lora(TensorDict(full | {f"{qkv}.lora_down.weight": torch.zeros(3, D)}))
    with pytest.raises(ModelError, match="alpha is nan"):
        read_lora(TensorDict(full | {f"{qkv}.alpha": torch.tensor(float("nan"))}))
    with pytest.raises(ModelError, match="expected a number"):
        read_lora(TensorDict(full | {f"{qkv}.alpha": torch.zeros(2)}))
    with pytest.raises(ModelError, match="are the same half of one layer"):
        read_lora(TensorDict(full | {"diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight": down}))
    with pytest.raises(ModelError, match="names of several layouts in one file"):
        read_lora(TensorDict(full | {"transformer.x_embedder.lora_A.weight": down}))
    odd = read_lora(TensorDict(full | {f"{qkv}.lora_up.weight": torch.zeros(3 * D + 1, 2)}))
    with pytest.raises(ModelError, match="19 outputs for an input of 6"):
        convert(odd, "diffusers")
    name = "lora_unet_double_blocks_0_img_attn"
    wrong = read_lora(TensorDict({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}))
    with pytest.raises(ModelError, match="FLUX has no such layer"):
        convert(wrong, "diffusers")


def test_alphas_in_diffusers_metadata() -> None:
    tensors = diffusers_file("attn.to_q", "attn.to_k", "proj_mlp", ranks=(2, 2, 4))
    facts = {
        "transformer.lora_alpha": 6,
        "transformer.alpha_pattern": {"single_transformer_blocks.0.proj_mlp": 1.0, "to_k": 8.0, "o_k": 9.0},
    }
    lora = read_lora(TensorDict(tensors, metadata={"lora_adapter_metadata": json.dumps(facts)}))
    assert [layer.alpha for layer in lora.layers] == [6.0, 8.0, 1.0]
    rooted = facts | {"transformer.use_rslora": True}
    lora = read_lora(TensorDict(tensors, metadata={"lora_adapter_metadata": json.dumps(rooted)}))
    assert [layer.scale for layer in lora.layers] == pytest.approx([6 / 2**0.5, 8 / 2**0.5, 1 / 4**0.5])
    for broken in ("{", "[]", '{"transformer.lora_alpha": "x", "transformer.alpha_pattern": 3}'):
        lora = read_lora(TensorDict(tensors, metadata={"lora_adapter_metadata": broken}))
        assert [layer.alpha for layer in lora.layers] == [2.0, 2.0, 4.0]


def test_alpha_of_a_peft_folder(tmp_path: Path) -> None:
    down, up = pair(4, D, D, 0)
    name = "base_model.model.transformer_blocks.0.attn.to_q"
    save_file(
        {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "adapter_model.safetensors"
    )
    assert read_lora(tmp_path).layers[0].alpha == 4.0
    config = {
        "r": 4,
        "lora_alpha": 10,
        "alpha_pattern": {"^transformer_blocks.0.attn.to_q": 6},
        "peft_type": "LORA",
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert read_lora(tmp_path / "adapter_model.safetensors").layers[0].alpha == 6.0
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"alpha_pattern": {"to_.*": 6}}))
    with pytest.raises(ModelError, match=r"'to_\.\*' is a regular expression; names are read"):
        read_lora(tmp_path)


@pytest.mark.parametrize(
    "note", ["{", "[]", '{"transformer.x_embedder": [1]}', '{"transformer.x_embedder": [0, 2, "float32"]}']
)
def test_damaged_note_changes_no_update(note: str) -> None:
    down, up = pair(2, D, D, 0)
    tensors = {"transformer.x_embedder.lora_A.weight": down, "transformer.x_embedder.lora_B.weight": up}
    lora = read_lora(TensorDict(tensors, metadata={"velatura.folded_alpha": note}))
    torch.testing.assert_close(lora.layers[0].delta(), up @ down)
