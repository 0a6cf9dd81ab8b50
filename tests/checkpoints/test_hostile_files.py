"""Files made to break a reader: through `open_checkpoint` and `read_lora` only our own errors may come."""

from __future__ import annotations

import json
import tempfile
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from velatura.checkpoints.checkpoint import TensorDict
from velatura.checkpoints.detect import identify
from velatura.checkpoints.flux_keys import flux_config
from velatura.checkpoints.header import DTYPES
from velatura.checkpoints.lora_file import Written, convert, lora_tensors, read_lora
from velatura.checkpoints.lora_names import parse_key
from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.sd1_keys import sd1_unet_config
from velatura.checkpoints.text_keys import clip_config, t5_config
from velatura.checkpoints.vae_keys import vae_config
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import CheckpointError, ModelError, NumericError

from .conftest import raw_file

QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FOUR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def length(value: int) -> bytes:
    return value.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes, expected at least 8"),
        (b"\x01", "1 byte, expected at least 8"),
        (length(2**60), "its header claims 1152921504606846976 bytes"),
        (length(2**63), "its header claims 9223372036854775808 bytes"),
        (length(2**60) + b"{" * 100, "its header claims 1152921504606846976 bytes"),
        (length(1000) + b'{"a":1}', "its header claims 1000 bytes"),
        (length(0), "its header claims 0 bytes"),
        (length(6) + b'{"\xff":1}'[:6], "not valid JSON"),
        (length(2) + b"{}" + b"more", "4 bytes follow"),
        (b"\x1f\x8b" + bytes(200), "its header"),
    ],
)
def test_hostile_beginnings(tmp_path: Path, content: bytes, says: str) -> None:
    for name in ("x.safetensors", "x.ckpt"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path)
        assert says in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {**FOUR, "data_offsets": [0, 2**60]}},
        {"a": {**FOUR, "data_offsets": [2**60, 2**60 + 4]}},
        {"a": {**FOUR, "shape": [2**32, 2**32]}},
        {"a": {**FOUR, "shape": [2**31, 2**31, 4]}},
        {"a": {**FOUR, "shape": [2**62]}, "b": FOUR},
        {"a": FOUR, "b": FOUR},
        {"a": FOUR, "b": {**FOUR, "data_offsets": [2, 6]}},
        '{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}, "a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        '{"a": {"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_lies_about_sizes_cost_no_memory(tmp_path: Path, header: Any) -> None:
    path = raw_file(tmp_path / "x.safetensors", header, bytes(4))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="damaged or unsafe"):
        open_checkpoint(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


STEMS = (
    "lora_unet_double_blocks_0_img_attn_qkv",
    "lora_unet_single_blocks_0_linear1",
    "transformer.single_transformer_blocks.0.attn.to_q",
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
)
PAIRS = (([2, 6], [18, 2]), ([2, 6], [42, 2]), ([3, 6], [6, 3]), ([2, 6, 1, 1], [6, 2, 1, 1]))
SHAPES = st.lists(st.integers(0, 4), max_size=5)
EXTRAS = (
    ".alpha",
    ".weight",
    ".scale_weight",
    ".lora_down.scale_weight",
    ".lora_up.weight_scale",
    ".dora_scale",
    "",
)
FLOATS = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F64")
NOTES = ("{", "[]", "null", "3", '{"transformer.single_transformer_blocks.0.attn.to_q": {"alpha": 1}}')


@st.composite
def well_formed(draw: st.DrawFn) -> bytes:
    """Sound safetensors with the names of a LoRA, mostly of sound shapes too, and at times with more."""
    tensors: dict[str, tuple[str, list[int]]] = {}
    mostly = st.integers(0, 7).map(bool)
    for stem in draw(st.lists(st.sampled_from(STEMS), min_size=1, max_size=2, unique=True)):
        names = (
            (".lora_A.weight", ".lora_B.weight") if "." in stem else (".lora_down.weight", ".lora_up.weight")
        )
        for name, shape in zip(names, draw(st.sampled_from(PAIRS)), strict=True):
            kind = draw(st.sampled_from(FLOATS if draw(mostly) else list(DTYPES)))
            tensors[stem + name] = (kind, shape if draw(mostly) else draw(SHAPES))
        if not draw(mostly):
            extra = stem + draw(st.sampled_from(EXTRAS))
            tensors[extra] = (
                draw(st.sampled_from(list(DTYPES))),
                draw(st.sampled_from([[], [1], [2], [2, 1]])),
            )
    header: dict[str, Any] = {}
    offset = 0
    for name, (kind, shape) in tensors.items():
        stop = offset + torch.Size(shape).numel() * DTYPES[kind].itemsize
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, stop]}
        offset = stop
    if draw(st.booleans()):
        keys = ("velatura.folded_alpha", "lora_adapter_metadata", "velatura.layout")
        header["__metadata__"] = {key: draw(st.sampled_from(NOTES)) for key in keys}
    text = json.dumps(header).encode()
    step = draw(st.integers(0, 60))  # small ones are finite numbers in most dtypes
    return length(len(text)) + text + bytes((step * (i + 1)) % 256 for i in range(offset))


def read_all(content: bytes) -> None:
    """Open, read every tensor, and convert as a LoRA: each may be refused, in our own words."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(content)
        with suppress(ModelError), open_checkpoint(path) as checkpoint:
            for key in checkpoint:
                assert checkpoint.read(key, dtype=torch.float32).shape == checkpoint.shape(key)
        for to in get_args(Written):
            with suppress(ModelError, NumericError):
                lora_tensors(convert(read_lora(path), to), to, dtype=torch.float16)


@QUICK
@given(content=well_formed())
def test_anything_under_the_names_of_loras(content: bytes) -> None:
    read_all(content)


@QUICK
@given(data=st.data())
def test_damaged_at_one_place_or_cut(data: st.DataObject) -> None:
    content = bytearray(data.draw(well_formed()))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    read_all(bytes(content[: data.draw(st.integers(place, len(content)))]))


CONFIGS = {
    flux_config: {
        "img_in.weight": [16, 4], "vector_in.in_layer.weight": [16, 6], "txt_in.weight": [16, 8],
        "final_layer.linear.weight": [4, 16], "single_blocks.0.norm.query_norm.scale": [16],
    },
    sd1_unet_config: {
        "input_blocks.0.0.weight": [32, 4, 3, 3], "out.2.weight": [4, 32, 3, 3],
        "input_blocks.1.0.in_layers.2.weight": [32, 32, 3, 3], "middle_block.1.proj_in.weight": [32, 32],
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight": [32, 8],
    },
    vae_config: {
        "encoder.down.0.block.0.conv1.weight": [32, 32, 3, 3], "encoder.conv_in.weight": [32, 3, 3, 3],
        "decoder.conv_in.weight": [32, 4, 3, 3], "decoder.conv_out.weight": [3, 32, 3, 3],
    },
    clip_config: {
        "embeddings.token_embedding.weight": [10, 64], "embeddings.position_embedding.weight": [7, 64],
        "encoder.layers.0.mlp.fc1.weight": [8, 64],
    },
    t5_config: {
        "encoder.block.0.layer.0.SelfAttention.q.weight": [12, 8], "shared.weight": [10, 8],
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": [4, 3],
        "encoder.block.0.layer.1.DenseReluDense.wo.weight": [8, 5],
    },
}  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS)
def test_networks_whose_tensors_have_too_few_sizes_or_none(config: Any) -> None:
    shapes: dict[str, list[int]] = CONFIGS[config]
    whole = {key: torch.zeros(shape) for key, shape in shapes.items()}
    assert config(TensorDict(whole))
    for key in set(shapes) - {"middle_block.1.proj_in.weight"}:
        for lie in ([], [3], [0] * len(shapes[key]), [1] * 5):
            if len(lie) == len(shapes[key]) and all(lie):  # sound
                continue
            file = TensorDict({**whole, key: torch.zeros(lie)})
            with pytest.raises(CheckpointError, match="expected . sizes? above 0"):
                config(file)
            assert identify(file).kind


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    for name in ("x" * 300, "x" * 300 + ".safetensors", "x" * 300 + "-00001-of-00002.safetensors"):
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / name)


def test_an_index_of_nothing_and_of_names_that_are_too_long(tmp_path: Path) -> None:
    index = tmp_path / "m.safetensors.index.json"
    for weights in ({}, {"a": "x" * 300 + ".safetensors"}):
        index.write_text(json.dumps({"weight_map": weights}))
        with pytest.raises(CheckpointError, match="it names no file|File name too long"):
            open_checkpoint(index)


@pytest.mark.parametrize("stem", ["q_proj_" * 25 + "x", "0_" * 3000 + "0", "linear_1_" * 25 + "x"])
def test_names_made_to_be_read_in_countless_ways(tmp_path: Path, stem: str) -> None:
    began = time.process_time()
    with pytest.raises(ModelError, match="names no layer"):
        parse_key(f"lora_unet_{stem}.lora_down.weight", "x")
    assert time.process_time() - began < 1


def test_blocks_without_end() -> None:
    names = {f"lora_unet_double_blocks_{number}_img_attn_proj": number for number in (0, 9999)}
    tensors = {f"{name}.lora_{half}.weight": torch.ones(2, 2) for name in names for half in ("down", "up")}
    with pytest.raises(ModelError, match=r"double_blocks.9999.img_attn.proj': FLUX has no such layer"):
        convert(read_lora(TensorDict(tensors)), "diffusers")


@pytest.mark.parametrize("alpha", [10**400, "1e999"])
def test_an_alpha_that_no_float_holds(tmp_path: Path, alpha: int | str) -> None:
    key = "transformer.single_transformer_blocks.0.attn.to_q"
    tensors = {f"{key}.lora_A.weight": torch.ones(2, 2), f"{key}.lora_B.weight": torch.ones(2, 2)}
    metadata = {"lora_adapter_metadata": f'{{"transformer.lora_alpha": {alpha}}}'}
    with pytest.raises(ModelError, match="alpha is inf"):
        read_lora(TensorDict(tensors, metadata=metadata))


def test_a_config_beside_a_lora_that_is_no_text(tmp_path: Path) -> None:
    key = "base_model.model.single_transformer_blocks.0.attn.to_q"
    tensors = {f"{key}.lora_A.weight": torch.ones(2, 2), f"{key}.lora_B.weight": torch.ones(2, 2)}
    write_safetensors(tmp_path / "adapter_model.safetensors", tensors)
    (tmp_path / "adapter_config.json").write_bytes(b"\xff\xfe{")
    assert read_lora(tmp_path / "adapter_model.safetensors").ranks == (2,)
