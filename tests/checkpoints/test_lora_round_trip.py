"""A kohya file that goes to diffusers' layout and comes back has every bit that it had."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from velatura.checkpoints.checkpoint import TensorDict
from velatura.checkpoints.lora_alpha import NOTE
from velatura.checkpoints.lora_file import Written, read_lora, write_lora
from velatura.errors import ModelError

D = 6  # width of the pretended FLUX
FLUX = {
    "lora_unet_double_blocks_0_img_attn_qkv": (D, 3 * D),
    "lora_unet_double_blocks_1_txt_attn_qkv": (D, 3 * D),
    "lora_unet_single_blocks_2_linear1": (D, 7 * D),
    "lora_unet_double_blocks_1_txt_mlp_2": (4 * D, D),
    "lora_unet_final_layer_adaLN_modulation_1": (D, 2 * D),
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (5, 5),
    "lora_te3_encoder_block_3_layer_1_DenseReluDense_wi_0": (4, 9),
}
SD = {
    "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q": (D, D),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0": (D, 2 * D),
    "lora_te_text_model_encoder_layers_11_self_attn_out_proj": (5, 5),
}
TEXT_ALONE = {stem: size for stem, size in SD.items() if stem.startswith("lora_te_")}
PARTS = {3 * D: (D, D, D), 7 * D: (D, D, D, 4 * D)}  # outputs of fused layers
Tensors = dict[str, torch.Tensor]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), key
        assert bits(found[key]) == bits(tensor), key


def there_and_back(tensors: Tensors, metadata: dict[str, str], *ways: Written) -> Tensors:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.safetensors"
        save_file(tensors, file, metadata)
        for way in ways:
            write_lora(file, read_lora(file), way)
        with safe_open(file, "pt") as opened:
            assert (opened.metadata() or {}) == metadata
        return load_file(file)


@st.composite
def files(draw: st.DrawFn) -> Tensors:
    """kohya files: any rank, alpha and dtype per layer; fused layers shared, block diagonal, or in part untrained."""
    tensors: Tensors = {}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sizes = draw(st.sampled_from([FLUX, FLUX, SD, TEXT_ALONE]))
    for stem, (width, out) in sizes.items():
        dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
        rank = draw(st.integers(1, 9))
        down, up = torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator)
        form = draw(st.sampled_from(["full", "full", "blocks", "same blocks", "untrained", "tiny"]))
        rows = PARTS.get(out)
        if form == "untrained":
            up[: out // 3] = 0
        elif form == "tiny":
            up = up * 1e-6
        elif form != "full" and rows and sizes is FLUX:
            up = torch.block_diag(*(torch.randn(n, rank, generator=generator) for n in rows))
            parts = [down if form == "same blocks" else down + i for i in range(len(rows))]
            down = torch.cat(parts)
        tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"] = down.to(dtype), up.to(dtype)
        alpha = draw(
            st.one_of(st.sampled_from([0.0, 1.0, float(rank), 0.3, 20.0]), st.floats(2**-10, 1024, width=32))
        )
        kind = draw(st.sampled_from([torch.float32, dtype, torch.bfloat16, torch.float64, torch.int64]))
        value = torch.tensor(max(alpha, 1.0) if kind == torch.int64 else alpha).to(kind)
        tensors[f"{stem}.alpha"] = value.reshape(1) if draw(st.booleans()) else value
    return tensors


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tensors=files(), metadata=st.sampled_from([{}, {"format": "pt"}, {"title": "dög", "format": "x"}]))
def test_no_bit_is_lost(tensors: Tensors, metadata: dict[str, str]) -> None:
    same(there_and_back(tensors, metadata, "diffusers", "kohya"), tensors)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tensors=files().filter(lambda found: FLUX.keys() & {key.split(".")[0] for key in found}))
def test_nor_by_way_of_comfy(tensors: Tensors) -> None:
    same(there_and_back(tensors, {}, "comfy", "diffusers", "comfy", "kohya"), tensors)


def test_alpha_0_is_the_rank() -> None:
    stem = "lora_unet_double_blocks_1_txt_mlp_2"
    tensors = {
        f"{stem}.lora_down.weight": torch.ones(4, 4 * D),
        f"{stem}.lora_up.weight": torch.ones(D, 4),
        f"{stem}.alpha": torch.tensor(0.0),
    }
    (layer,) = read_lora(TensorDict(tensors)).layers
    assert (layer.alpha, layer.scale) == (4.0, 1.0)
    assert torch.equal(layer.delta(), torch.full((D, 4 * D), 4.0))


def test_an_alpha_that_peft_says_is_0_is_refused() -> None:
    """There it means no effect, and in a kohya file the rank: no file could say it to all tools."""
    name = "transformer.transformer_blocks.0.attn.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, D), f"{name}.lora_B.weight": torch.ones(D, 2)}
    said = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 0})}
    with pytest.raises(
        ModelError, match=r"'transformer_blocks.0.attn.to_q': alpha is 0.0, expected a finite"
    ):
        read_lora(TensorDict(tensors, metadata=said))


def test_an_untouched_adapter_needs_no_note(tmp_path: Path) -> None:
    stem = "lora_unet_double_blocks_1_txt_mlp_2"
    tensors = {
        f"{stem}.lora_down.weight": torch.randn(4, 4 * D),
        f"{stem}.lora_up.weight": torch.randn(D, 4),
        f"{stem}.alpha": torch.tensor(4.0),
    }
    written = write_lora(tmp_path / "x", read_lora(TensorDict(tensors)), "diffusers")
    assert NOTE not in written


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 3},
        {"alpha": 0},
        {"alpha": "x"},
        {"alpha": [1]},
        {"up": "I64"},
        {"up": "F4"},
        {"up": None},
        {"lost": "???"},
        {"lost": "eJw="},
        {"lost": 3},
        {"stored": [1]},
        {"stored": ["x", "F32"]},
        {"stored": [[], "F32"]},
        {"stored": [{}, "F32"]},
    ],
)
def test_a_damaged_note_changes_no_update(tmp_path: Path, change: dict[str, object]) -> None:
    stem = "lora_unet_double_blocks_1_txt_mlp_2"
    down, up = torch.randn(4, 4 * D), torch.randn(D, 4)
    tensors = {
        f"{stem}.lora_down.weight": down,
        f"{stem}.lora_up.weight": up,
        f"{stem}.alpha": torch.tensor([0.7], dtype=torch.bfloat16),
    }
    path = tmp_path / "x.safetensors"
    written = write_lora(path, read_lora(TensorDict(tensors)), "diffusers")
    note = json.loads(written[NOTE])
    (place,) = note
    note[place] |= change
    save_file(load_file(path), path, {NOTE: json.dumps(note)})
    (layer,) = read_lora(path).layers
    torch.testing.assert_close(
        layer.delta(), up @ down * float(tensors[f"{stem}.alpha"].item() / 4), rtol=1e-5, atol=1e-6
    )
    write_lora(path, read_lora(path), "kohya")
    assert load_file(path)[f"{stem}.lora_down.weight"].equal(down)
